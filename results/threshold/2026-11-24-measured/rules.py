"""Other rules for the threshold, on the digits: what is known of the dual norm alone.

Prints the mean test accuracy over the seeds for every rule and step size.
"""

import math
import statistics
from collections.abc import Callable
from unittest import mock

import torch

from normball import ClippedScion
from normball.lab import optimizers
from normball.lab.optimizers import configure
from normball.lab.tasks import DIGITS
from normball.lab.train import Trainer

Rule = Callable[[list[float], list[float], float], float]
STEPS = [2.0**e for e in range(-8, -1)]
SEEDS = (0, 1, 2)


def quantile(share: float) -> Rule:
    """The dual norms so far, sorted."""
    return lambda duals, moves, lr: sorted(duals)[int(share * (len(duals) - 1))]


def frozen(duals: list[float], moves: list[float], lr: float) -> float:
    """The median of the first fifty dual norms; until then that of those so far."""
    return statistics.median(duals[:50])


def distance(duals: list[float], moves: list[float], lr: float) -> float:
    """A step size of the way gone over the root of the summed squares."""
    return lr * math.sqrt(sum(d * d for d in duals)) / sum(moves)


RULES: dict[str, Rule] = {
    "median of the dual norms": quantile(0.5),
    "0.9 quantile": quantile(0.9),
    "median of the first 50, frozen": frozen,
    "distance over root of squares": distance,
}


def optimizer_of(rule: Rule) -> type[ClippedScion]:
    class Ruled(ClippedScion):
        def step(self, closure=None):
            if not hasattr(self, "seen"):
                self.seen: tuple[list[float], list[float]] = ([], [])
            duals, moves = self.seen
            lr = self.param_groups[0]["lr"]
            if duals:
                rho = max(rule(duals, moves, lr), 1e-12)
                for group in self.param_groups:
                    group["rho"] = rho
            super().step(closure)
            metrics = self.metrics()
            duals.append(float(metrics["dual_norm"]))
            moves.append(lr * float(metrics["step_factor"]))

    return Ruled


def main() -> None:
    torch.set_num_threads(1)
    print("| rule | " + " | ".join(f"2^{round(math.log2(lr))}" for lr in STEPS) + " |")
    print("|---" * (1 + len(STEPS)) + "|")
    for name, rule in RULES.items():
        means = []
        for lr in STEPS:
            scores = []
            for seed in SEEDS:
                config = configure(DIGITS, "clipped-scion", lr=lr, rho=1.0, seed=seed)
                with mock.patch.object(optimizers, "ClippedScion", optimizer_of(rule)):
                    trainer = Trainer(config)
                scores.append(100 * trainer.run().score)
            means.append(statistics.fmean(scores))
        print(f"| {name} | " + " | ".join(f"{mean:.1f}" for mean in means) + " |", flush=True)


if __name__ == "__main__":
    main()
