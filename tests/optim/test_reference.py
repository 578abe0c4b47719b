"""A hundred steps of a mixed network against the formulas."""

import numpy as np
import pytest
import torch

from normball import ClippedScion, Scion
from tests.optim import reference
from tests.optim.network import build, groups, loss

CASES = {
    "algorithm 3": ({"rho": 1.3}, None),
    "algorithm 3, no momentum": ({"rho": 6.5, "alpha": 1.0}, None),
    "algorithm 4, variant 1": ({"rho": 0.7, "constrained": True, "variant": 1}, 1),
    "algorithm 4, variant 2": ({"rho": 1.2, "constrained": True, "variant": 2}, 2),
    "unconstrained Scion": ({}, None),
    "Scion": ({"constrained": True}, 2),
}


def shrink_into_balls(model):
    """Start inside every ball, so that the reference needs no projection."""
    with torch.no_grad():
        for name, p in model.named_parameters():
            _, norm, radius = reference.LAYERS[name]
            p.div_(max(1.0, 2 * norm(p.numpy()) / radius))


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_hundred_steps(case):
    options, variant = CASES[case]
    options = {"alpha": 0.1, "lr": 0.02, **options}
    model = build()
    shrink_into_balls(model)
    optimizer = (ClippedScion if "rho" in options else Scion)(groups(model), **options)
    x = {n: p.detach().numpy().copy() for n, p in model.named_parameters()}
    d = {n: np.zeros_like(w) for n, w in x.items()}
    factors = []
    for i in range(100):
        optimizer.zero_grad()
        loss(model, i).backward()
        g = {n: p.grad.numpy().copy() for n, p in model.named_parameters()}
        optimizer.step()
        factors.append(
            reference.step(
                x,
                d,
                g,
                lr=options["lr"],
                alpha=options["alpha"],
                rho=options.get("rho"),
                variant=variant,
            )
        )
        assert float(optimizer.metrics()["step_factor"]) == pytest.approx(factors[-1], rel=1e-9)
        for n, p in model.named_parameters():
            assert np.abs(p.detach().numpy() - x[n]).max() <= 1e-10, (i, n)
    if "rho" in options:
        clipped = sum(f == 1 for f in factors)
        assert 5 <= clipped <= 95, clipped
        assert float(optimizer.metrics()["clipped_share"]) == pytest.approx(clipped / 100)
