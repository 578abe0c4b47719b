"""Does training care which polar factor is used? The digits, with each factor of the library.

Two questions. Accuracies after 25 epochs, for each factor, step and seed; and 100 steps of the
default in float32 beside the exact SVD in float64, which sees the same gradients: how far apart are
the weights, as a share of the way that they went? Rows go to `rows.jsonl` in the
folder that is given, or beside this file.
"""

import json
import sys
from dataclasses import replace
from pathlib import Path
from statistics import fmean

import torch
from torch import nn

import normball.lab.train as lab
from normball import ClippedScion, param_groups
from normball.lab.optimizers import OPTIMIZERS, OptimizerSpec, configure
from normball.lab.tasks import DIGITS, build_model
from normball.norms import Spectral
from normball.polar import SVD, Auto, Eigh, NewtonSchulz, Nonic, Polar, PolarExpress

FACTORS: dict[str, Polar] = {
    "SVD": SVD(),
    "Eigh": Eigh(),
    "PolarExpress": PolarExpress(),
    "PolarExpress in bfloat16": PolarExpress(6, 3e-3, torch.bfloat16),
    "Nonic": Nonic(),
    "NewtonSchulz": NewtonSchulz(),
    "Auto": Auto(),
}
STEPS = (2.0**-7, 2.0**-5, 2.0**-4)
SEEDS = (0, 1, 2)


def groups_with(model: nn.Module, polar: Polar) -> list[dict]:
    groups = list(param_groups(model))
    for group in groups:
        if isinstance(group["norm"], Spectral):
            group["norm"] = replace(group["norm"], polar=polar)
    return groups


def accuracy(polar: Polar, lr: float, seed: int) -> float:
    def build(model, config):
        return ClippedScion(groups_with(model, polar), lr=config.lr, rho=16.0, alpha=0.5)

    options = OPTIMIZERS["clipped-scion"].options
    lab.find_optimizer = lambda name: OptimizerSpec(name, name, options, build)
    config = configure(DIGITS, "clipped-scion", lr=lr, seed=seed)
    return 100 * lab.Trainer(config).run().score


def beside_the_svd(polar: Polar, lr: float, steps: int = 100) -> dict[str, float]:
    """Train in float64 with the SVD, and give the same gradients to `polar` in float32."""
    torch.manual_seed(0)
    config = configure(DIGITS, "clipped-scion", lr=lr, seed=0)
    exact = build_model(config).double()
    single = build_model(config)
    single.load_state_dict(exact.state_dict())
    start = [p.detach().clone() for p in exact.parameters()]
    reference = ClippedScion(groups_with(exact, SVD()), lr=lr, rho=16.0, alpha=0.5)
    ours = ClippedScion(groups_with(single, polar), lr=lr, rho=16.0, alpha=0.5)
    data = DIGITS.load(None, None)
    images, labels = data.train_x, data.train_y
    dual = 0.0
    for step in range(steps):
        generator = torch.Generator().manual_seed(step)
        batch = torch.randint(len(images), (64,), generator=generator)
        reference.zero_grad()
        loss = nn.functional.cross_entropy(exact(images[batch].double()), labels[batch])
        loss.backward()
        for p, q in zip(exact.parameters(), single.parameters(), strict=True):
            q.grad = p.grad.float()
        reference.step()
        ours.step()
        ratio = ours.metrics()["dual_norm"] / reference.metrics()["dual_norm"]
        dual = max(dual, abs(float(ratio) - 1))
    pairs = zip(exact.parameters(), single.parameters(), start, strict=True)
    apart = [float((q - p).detach().norm() / (p - x).detach().norm()) for p, q, x in pairs]
    return {"worst_layer": max(apart), "dual_norm": dual}


def main() -> None:
    torch.set_num_threads(1)
    path = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parent) / "rows.jsonl"
    with path.open("w", encoding="utf-8") as file:

        def keep(row: dict) -> None:
            file.write(json.dumps(row) + "\n")
            file.flush()
            print(row, flush=True)

        for name, polar in FACTORS.items():
            for lr in STEPS[1:]:
                keep({"case": "beside", "factor": name, "lr": lr} | beside_the_svd(polar, lr))
        for lr in STEPS:
            for name, polar in FACTORS.items():
                scores = [accuracy(polar, lr, seed) for seed in SEEDS]
                mean = round(fmean(scores), 2)
                keep({"case": "digits", "factor": name, "lr": lr, "mean": mean, "scores": scores})


if __name__ == "__main__":
    main()
