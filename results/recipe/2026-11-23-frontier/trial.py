"""Six ideas from the literature on the digits, each a few lines on top of Clipped Scion.

Prints the mean test accuracy over seeds 0, 1, 2 and the worst seed, for fixed steps.
"""

from dataclasses import dataclass
from statistics import fmean

import torch

import normball.lab.train as lab
from normball import ClippedScion, param_groups
from normball.lab.optimizers import OPTIMIZERS, OptimizerSpec, configure
from normball.lab.tasks import DIGITS
from normball.norms import SpectralConv


class PerLayer(ClippedScion):
    """Every layer has its own factor `min(1, r_l ||d_l||* / threshold)` (Gluon, 2505.13416)."""

    threshold = 4.0
    unclipped = False

    def _per_group(self, bundles, duals):
        self._duals = duals
        return super()._per_group(bundles, duals)

    def _move(self, bundles, updates, factor, finite):
        for bundle, update, dual in zip(bundles, updates, self._duals, strict=True):
            share = dual / self.threshold
            share = share if self.unclipped else share.clamp(max=1)
            super()._move([bundle], [update], share, finite)


class PolarGrad(PerLayer):
    """Steepest descent in every layer by itself, no threshold (2505.21799)."""

    unclipped = True


class Nesterov(ClippedScion):
    """The direction looks ahead: `(1 - alpha) d + alpha g` with the new `d`."""

    def _estimate(self, bundle, g, finite):
        d = super()._estimate(bundle, g, finite)
        return torch.lerp(d, g, bundle.first.alpha)


class MVR(ClippedScion):
    """Variance reduction by the last batch's gradient: `d + eta (g - g_before)` before the mean."""

    eta = 0.3

    def _estimate(self, bundle, g, finite):
        g = g.clone()
        state = self.state[bundle.first.param]
        d, before = state.get("trial", (torch.zeros_like(g), g))
        alpha = bundle.first.alpha
        d = (1 - alpha) * (d + self.eta * (g - before)) + alpha * g
        state["trial"] = (d, g)
        return d


@dataclass(frozen=True)
class SoftSpectral(SpectralConv):
    """Singular values clipped at `share` of the largest, not all set to 1 (2603.14315)."""

    share: float = 0.1

    def lmo_and_dual(self, d):
        u, s, vh = torch.linalg.svd(self._matrices(d), full_matrices=False)
        clipped = (s / (self.share * s[0]).clamp(min=1e-30)).clamp(max=1)
        gain = self._gain(d.shape)
        return -gain * ((u * clipped) @ vh).reshape(d.shape), gain * (s * clipped).sum()


def accuracy(cls, lr, seed, alpha=0.5, share=None, **attributes):
    def build(model, config):
        groups = param_groups(model)
        if share is not None:
            for group in groups:
                if isinstance(group["norm"], SpectralConv):
                    group["norm"] = SoftSpectral(group["norm"].scale, share=share)
        optimizer = cls(groups, lr=config.lr, rho=16.0, alpha=alpha)
        for name, value in attributes.items():
            setattr(optimizer, name, value)
        return optimizer

    options = OPTIMIZERS["clipped-scion"].options
    lab.find_optimizer = lambda name: OptimizerSpec(name, name, options, build)
    config = configure(DIGITS, "clipped-scion", lr=lr, seed=seed)
    return 100 * lab.Trainer(config).run().score


CASES = {
    "clipped": (ClippedScion, {}),
    "nesterov": (Nesterov, {}),
    "clipped, alpha 0.2": (ClippedScion, {"alpha": 0.2}),
    "nesterov, alpha 0.2": (Nesterov, {"alpha": 0.2}),
    "mvr": (MVR, {}),
    "per layer, 2": (PerLayer, {"threshold": 2.0}),
    "per layer, 4": (PerLayer, {"threshold": 4.0}),
    "per layer, 8": (PerLayer, {"threshold": 8.0}),
    "polargrad, 16": (PolarGrad, {"threshold": 16.0}),
    "polargrad, 64": (PolarGrad, {"threshold": 64.0}),
    "singular values, 0.01": (ClippedScion, {"share": 0.01}),
    "singular values, 0.1": (ClippedScion, {"share": 0.1}),
    "singular values, 0.5": (ClippedScion, {"share": 0.5}),
}

if __name__ == "__main__":
    torch.set_num_threads(1)
    for name, (cls, options) in CASES.items():
        cells = []
        for exponent in (-7, -6, -5, -4, -3):
            seeds = [accuracy(cls, 2.0**exponent, seed, **options) for seed in (0, 1, 2)]
            cells.append(f"{fmean(seeds):.1f} ({min(seeds):.1f})")
        print(f"| {name} |", " | ".join(cells), "|", flush=True)
