"""The statement on `rho="auto"`: its constants from sums, and the optimizer itself."""

import itertools
import math

import numpy as np
import pytest
import torch

from normball import ClippedScion
from normball.norms import Euclidean, Sign
from normball.theory import problems
from normball.theory.bounds import measured_lengths, measured_threshold

LEFT = {"lr": 1.0, "alpha": 0.2, "L0": 1.0}


def weights(count, alpha, nesterov):
    """For each of `count` steps, the weights of all gradients in the estimate, over their sum."""
    d = np.zeros(count)
    for k in range(count):
        d *= 1 - alpha
        d[k] += alpha
        e = (1 - alpha) * d if nesterov else d.copy()
        e[k] += alpha if nesterov else 0
        yield e / e.sum()


def constants(n, alpha, nesterov, curve):
    """`A`, and sums one by one: of the lengths, and of deviations times the longest."""
    *_, late = weights(1500, alpha, nesterov)
    ages = np.arange(1500)[::-1]
    lengths = [measured_lengths(k) for k in range(1, n + 1)]
    deviations = [np.linalg.norm(row) for row in weights(n, alpha, nesterov)]
    return (
        2 * float((late * ages * np.exp(curve * ages)).sum()) + 0.5,
        math.fsum(longest**2 for _, longest in lengths),
        math.fsum(shortest for shortest, _ in lengths),
        math.fsum(t * d for (_, t), d in zip(lengths, deviations, strict=True)),
    )


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("alpha", [0.05, 0.1, 0.5, 0.95])
@pytest.mark.parametrize("n", [1, 3, 7, 50, 60, 400])
def test_it_is_its_formula(n, alpha, nesterov):
    """The sums are bounded by integrals, so the bound is a little larger."""
    curve = alpha / 40
    age, squares, shortest, noise = constants(n, alpha, nesterov, curve)
    options = {"lr": 0.5, "alpha": alpha, "L0": 3.0, "L1": 2 * curve, "nesterov": nesterov}
    for sigma in (0.0, 0.7):
        total = 2.0 / 0.5 + age * 3.0 * 0.5 * squares + 2 * sigma * noise
        wanted = total / ((1 - age * curve) * shortest)
        found = measured_threshold(n, 2.0, noise=sigma, **options)
        assert found >= wanted * (1 - 1e-9)
        # At the start the estimate has seen few gradients; that part of the bound is a series.
        if not sigma or n * alpha > 10:
            assert found <= wanted * 1.1


def test_the_ball_changes_the_units():
    plain = measured_threshold(90, 2.0, lr=0.3, alpha=0.2, L0=4 * 9 * 5.0, noise=2 * 3 * 0.1)
    assert measured_threshold(90, 2.0, lr=0.3, alpha=0.2, L0=5.0, noise=0.1, beta=3.0) == plain


def test_it_falls_to_nothing_without_noise():
    values = [measured_threshold(10**i, 1.0, lr=0.1, alpha=0.1, L0=1.0) for i in range(9)]
    for n, (before, after) in enumerate(itertools.pairwise(values)):
        assert after < before
        if n > 3:  # log(n) / sqrt(n)
            assert after / before == pytest.approx((n + 1) / n / math.sqrt(10), rel=0.1)


@pytest.mark.parametrize(
    ("changed", "condition"),
    [
        ({"alpha": 1.0}, "alpha < 1"),
        ({"lr": 0.0}, "lr > 0"),
        ({"L1": 0.1}, "A L1 lr < 1"),
        ({"L1": 1.5, "alpha": 0.9}, "L1 lr <= 1"),
        ({"L1": 0.3}, r"\(1 - alpha\) exp\(L1 lr\) < 1"),
        ({"beta": 1.0, "L1": 0.01}, "L1 = 0 in the ball"),
        ({"beta": 1.0, "lr": 1.5}, "lr <= 1 in the ball"),
        ({"noise": -1.0}, "noise >= 0"),
        ({"L0": math.nan}, "L0 >= 0"),
    ],
)
def test_conditions(changed, condition):
    with pytest.raises(ValueError, match=condition):
        measured_threshold(10, 1.0, **LEFT | changed)
    with pytest.raises(ValueError, match="n >= 1"):
        measured_lengths(0)


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("kind", ["cosh", "ball"])
def test_the_optimizer_stays_below_it(kind, nesterov):
    if kind == "cosh":
        problem = problems.cosh(torch.tensor([0.3, -1.0, 2.0], dtype=torch.float64), Euclidean())
        lr = 0.02 / problem.L1
    else:
        norm = Sign(normalized=False)
        problem = problems.shifted(problems.quadratic([0.1, 2.0, 10.0], norm), 1.0, beta=0.5)
        lr = 0.05
    x = torch.nn.Parameter(problem.x0.clone())
    beta = problem.beta
    group = {"params": [x], "norm": problem.norm, "radius": beta or 1.0}
    optimizer = ClippedScion([group], lr, constrained=beta is not None, nesterov=nesterov)
    values, measures = [], []
    for _ in range(300):
        optimizer.zero_grad()
        value = problem.fun(x)
        value.backward()
        dual = float(problem.norm.dual_norm(x.grad))
        values.append(value.item())
        gap = 0.0 if beta is None else float((x.grad * x.detach()).sum())
        measures.append(gap + dual * (beta or 1.0))
        optimizer.step()
    # Over the ball by duality, as the quadratic is convex.
    low = (
        problem.infimum
        if beta is None
        else max(v - g for v, g in zip(values, measures, strict=True))
    )
    for n in range(1, 301):
        bound = measured_threshold(
            n, values[0] - low, lr=lr, alpha=0.1, L0=problem.L0, L1=problem.L1,
            nesterov=nesterov, beta=beta,
        )  # fmt: skip
        assert min(measures[:n]) <= bound
