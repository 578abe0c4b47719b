"""A hundred steps of a mixed network against the formulas."""

import numpy as np
import pytest
import torch

from normball import GGNC, ClippedScion, Scion
from normball.norms import Euclidean
from tests.optim import reference
from tests.optim.network import bits, build, groups, loss, same, train

CASES = {
    "algorithm 3": ({"rho": 1.3}, None),
    "algorithm 3, no momentum": ({"rho": 6.5, "alpha": 1.0}, None),
    "algorithm 4, variant 1": ({"rho": 0.7, "constrained": True, "variant": 1}, 1),
    "algorithm 4, variant 2": ({"rho": 1.2, "constrained": True, "variant": 2}, 2),
    "unconstrained Scion": ({}, None),
    "Scion": ({"constrained": True}, 2),
    "ahead, algorithm 3": ({"rho": 1.8, "nesterov": True, "average": 0.1}, None),
    "ahead, variant 1": (
        {"rho": 0.9, "constrained": True, "variant": 1, "nesterov": True, "average": 1.0},
        1,
    ),
    "ahead, variant 2": (
        {"rho": 1.5, "constrained": True, "variant": 2, "nesterov": True, "average": 0.3},
        2,
    ),
    "ahead, unconstrained Scion": ({"nesterov": True, "average": 0.1}, None),
    "ahead, Scion": ({"constrained": True, "nesterov": True}, 2),
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
    options = {"alpha": 0.1, "lr": 0.02, "nesterov": False, **options}
    model = build()
    shrink_into_balls(model)
    optimizer = (ClippedScion if "rho" in options else Scion)(groups(model), **options)
    x = {n: p.detach().numpy().copy() for n, p in model.named_parameters()}
    d = {n: np.zeros_like(w) for n, w in x.items()}
    m, weight = dict(x), options.get("average")
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
                nesterov=options["nesterov"],
            )
        )
        m = reference.average(m, x, i + 1, weight) if weight else x
        assert float(optimizer.metrics()["step_factor"]) == pytest.approx(factors[-1], rel=1e-9)
        for n, p in model.named_parameters():
            assert np.abs(p.detach().numpy() - x[n]).max() <= 1e-10, (i, n)
    optimizer.eval()
    for n, p in model.named_parameters():
        assert np.abs(p.detach().numpy() - m[n]).max() <= 1e-10, n
    if "rho" in options:
        clipped = sum(f == 1 for f in factors)
        assert 5 <= clipped <= 95, clipped
        assert float(optimizer.metrics()["clipped_share"]) == pytest.approx(clipped / 100)


def test_without_momentum_there_is_nothing_to_look_ahead_of():
    """`alpha=1` is the plain gradient: bit for bit, and no momentum is kept."""
    models = [build(), build()]
    for model, nesterov in zip(models, (False, True), strict=True):
        optimizer = ClippedScion(groups(model), 0.02, rho=6.5, alpha=1.0, nesterov=nesterov)
        train(model, optimizer, 10)
        assert not any("momentum" in entry for entry in optimizer.state.values())
    assert same(*map(bits, models))


def test_the_weights_of_past_gradients():
    """`alpha (2 - alpha)` on the last, `alpha (1 - alpha)^(j+1)` on the one j before it."""
    alpha, gamma = 0.3, 0.5
    p = torch.zeros(8, dtype=torch.float64).requires_grad_()
    optimizer = GGNC(
        [p], gamma=gamma, rho=1e9, norm=Euclidean(), alpha=alpha, nesterov=True
    )  # below the threshold: steps are gamma times the estimate
    for k in range(8):
        before = p.detach().clone()
        p.grad = torch.eye(8, dtype=torch.float64)[k]
        optimizer.step()
        found = (before - p.detach()) / gamma
        wanted = [alpha * (1 - alpha) ** (k - i + 1) for i in range(k)] + [alpha * (2 - alpha)]
        assert torch.allclose(found[: k + 1], torch.tensor(wanted, dtype=torch.float64))
        assert float(found.sum()) == pytest.approx(1 - (1 - alpha) ** (k + 2))
