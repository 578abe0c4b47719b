"""The estimate that looks ahead, the average and parts that rest, as the optimizers make them."""

import math

import pytest
import torch

from normball import GGNC, S3CG, ClippedScion
from normball.norms import Column, Euclidean
from normball.theory import bounds
from normball.theory.bounds import momentum_error

LANES, STEPS = 4000, 40
CURVATURES = torch.tensor([0.2, 1.0, 3.0], dtype=torch.float64)


def run(alpha, gamma, sigma, nesterov):
    """Descend a quadratic in many lanes, each with noise of its own.

    The step of a threshold that is never reached is `gamma` times the estimate, which is read off
    it. Returns for every step the root mean squares, over the lanes, of the error of the estimate,
    of the true gradient's change since the last step, and of the gradient.
    """
    random = torch.Generator().manual_seed(0)
    x = torch.ones(LANES, 3, dtype=torch.float64).requires_grad_()
    optimizer = GGNC([x], gamma=gamma, rho=1e9, norm=Euclidean(), alpha=alpha, nesterov=nesterov)
    seen, last = [], None
    for _ in range(STEPS):
        g = x.detach() * CURVATURES
        noise = torch.randn(x.shape, generator=random, dtype=x.dtype) * sigma / math.sqrt(3)
        before = x.detach().clone()
        x.grad = g + noise
        optimizer.step()
        error = (before - x.detach()) / gamma - g
        change = torch.zeros_like(g) if last is None else g - last
        seen.append([float(y.square().sum(1).mean().sqrt()) for y in (error, change, g)])
        last = g
    return seen


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("alpha", [0.05, 0.3, 0.9])
@pytest.mark.parametrize(("gamma", "sigma"), [(0.3, 0.0), (0.3, 1.0), (0.03, 3.0), (1e-9, 1.0)])
def test_the_error_of_the_estimate_is_within_its_bound(alpha, gamma, sigma, nesterov):
    seen = run(alpha, gamma, sigma, nesterov)
    drift = 0.0
    for k, (error, change, _) in enumerate(seen, 1):
        drift = max(drift, change)
        bound = momentum_error(
            k,
            alpha=alpha,
            sigma=sigma,
            drift=drift,
            first_gradient=seen[0][2],
            nesterov=nesterov,
        )
        # 4,000 lanes know a root mean square to half a percent.
        assert error <= bound * (1 + (0.025 if sigma else 1e-6)), k
    if gamma == 1e-9 and alpha >= 0.3:  # the past has faded: noise alone
        wanted = momentum_error(
            10**6, alpha=alpha, sigma=sigma, drift=0.0, first_gradient=0.0, nesterov=nesterov
        )
        assert error == pytest.approx(wanted, rel=0.03)


def test_what_looking_ahead_gives_and_takes():
    """Without noise the error is `(1 - alpha)` of what it was; of noise there is more."""
    alpha = 0.3
    for k, (plain, ahead) in enumerate(
        zip(run(alpha, 1e-9, 0.0, False), run(alpha, 1e-9, 0.0, True), strict=True), 1
    ):
        first = math.sqrt(float(CURVATURES.square().sum()))
        assert plain[0] == pytest.approx((1 - alpha) ** k * first, abs=1e-6)
        assert ahead[0] == pytest.approx((1 - alpha) ** (k + 1) * first, abs=1e-6)
    # The sum of squares of the weights of past gradients, as the estimate has them.
    for alpha in (0.01, 0.1, 0.5, 1.0):
        weights = [alpha * (2 - alpha)] + [alpha * (1 - alpha) ** (j + 1) for j in range(1, 9000)]
        noise = momentum_error(
            10**6, alpha=alpha, sigma=1.0, drift=0.0, first_gradient=0.0, nesterov=True
        )
        assert noise**2 == pytest.approx(sum(w**2 for w in weights), rel=1e-9)
        plain = momentum_error(10**6, alpha=alpha, sigma=1.0, drift=0.0, first_gradient=0.0)
        assert (noise > plain) == (alpha < 1)


@pytest.mark.parametrize("average", [1.0, 0.7, 0.1])
@pytest.mark.parametrize("noise", [0.0, 2.0])
def test_the_average_on_a_convex_function(average, noise):
    """At every step within the bound, from function values and from Wolfe gaps."""
    random = torch.Generator().manual_seed(1)
    target = torch.tensor([0.3, -0.2, 4.0], dtype=torch.float64)  # outside of the ball

    def f(x):
        return float((CURVATURES * (x - target).square()).sum()) / 2

    def least():
        x = torch.zeros(3, dtype=torch.float64)
        for _ in range(2000):  # projected gradients
            x = x - CURVATURES * (x - target) / 3
            x = x / max(1.0, float(x.norm()))
        return f(x)

    bottom = least()
    x = torch.tensor([-0.6, 0.6, -0.5], dtype=torch.float64).requires_grad_()
    optimizer = S3CG(
        [x], gamma=1 / 3, rho=3.0, beta=1.0, norm=Euclidean(), alpha=0.5, average=average
    )
    heights = gaps = 0.0
    for n in range(1, 60):
        g = CURVATURES * (x.detach() - target)
        x.grad = g + noise * torch.randn(3, generator=random, dtype=x.dtype)
        optimizer.step()
        g = CURVATURES * (x.detach() - target)
        heights += f(x.detach()) - bottom
        gaps += float(g @ x.detach() + g.norm())
        found = f(optimizer.state[x]["average"]) - bottom
        assert -1e-9 <= found <= bounds.average_gap(n, heights, average=average) + 1e-9
        assert found <= bounds.average_gap(n, gaps, average=average)


def test_the_bound_of_the_average_is_met_by_a_line():
    """Of weight 1 it is the mean; of another, met when all the height is in the last point."""
    x = torch.tensor([2.0], dtype=torch.float64).requires_grad_()
    optimizer = GGNC([x], gamma=0.1, rho=1.0, norm=Euclidean(), average=1.0)
    total = 0.0
    for n in range(1, 9):
        x.grad = torch.ones_like(x)
        optimizer.step()
        total += x.item()
        mean = float(optimizer.state[x]["average"])
        assert mean == pytest.approx(bounds.average_gap(n, total, average=1.0))
    y = torch.zeros(1, dtype=torch.float64).requires_grad_()
    optimizer = GGNC([y], gamma=1.0, rho=1e-9, norm=Euclidean(), average=0.1)
    for n in range(1, 31):
        y.grad = -torch.ones_like(y)
        optimizer.param_groups[0]["rho"] = 1e-9 if n < 30 else 1.0
        optimizer.step()
    found = float(optimizer.state[y]["average"])
    assert found == pytest.approx(bounds.average_gap(30, y.item(), average=0.1), rel=1e-6)


def test_the_short_step_descends_where_rows_rest():
    """Thm 4.7 with exact gradients: what has none neither shrinks nor costs anything."""
    rows, used, width, radius = 6, 4, 3, 2.0
    random = torch.Generator().manual_seed(2)
    target = 4 * torch.randn(rows, width, generator=random, dtype=torch.float64)
    x = torch.randn(rows, width, generator=random, dtype=torch.float64).requires_grad_()
    start = x.detach().clone()
    # In the norm max_i ||x_i|| / (sqrt(width) radius), whose dual adds up the rows in use.
    L = used * width * radius**2
    norm = {"norm": Column(transposed=True), "radius": radius}
    optimizer = ClippedScion([{"params": [x], **norm}], 1.0, rho=4 * L, alpha=1.0, constrained=True)

    def f():
        return float((x - target)[:used].detach().square().sum()) / 2

    gaps = []
    for _ in range(50):
        before = f()
        x.grad = x.detach() - target
        x.grad[used:] = 0
        optimizer.step()
        gaps.append(float(optimizer.metrics()["gap"]))
        promised = bounds.s3cg_descent(gaps[-1], gamma=1 / L, rho=L, L=L, beta=1.0)
        assert before - f() >= promised * (1 - 1e-9)
        assert torch.equal(x[used:], start[used:])
    assert gaps[-1] < gaps[0] / 2
