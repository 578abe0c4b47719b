"""Step sizes without constants: what docs/theory.md proves of them, on runs."""

import math
from dataclasses import replace

import pytest
import torch

from normball.norms import Euclidean, Sign, Spectral
from normball.theory import bounds, minimize, problems, tuning
from normball.theory.checks import GEOMETRIES
from normball.theory.problems import shifted
from normball.theory.stepsizes import Backtracking

SIGN = Sign(normalized=False)
STEEP = [
    problems.cosh(torch.linspace(-1, 2, 6, dtype=torch.float64), Euclidean()),
    problems.fourth_power(5, SIGN),
    problems.schatten_power(4, 3),
    problems.phase_retrieval(5, Euclidean()),
    GEOMETRIES["Product"]().steep,
]


def run(problem, gamma, n, method="ggnc", **options):
    return minimize(
        problem.fun,
        problem.x0,
        method=method,
        norm=problem.norm,
        gamma=gamma,
        beta=problem.beta,
        max_iter=n,
        tol=0,
        **options,
    )


def name(problem):
    return f"{problem.name}-{problem.norm}"


@pytest.mark.parametrize("problem", STEEP, ids=name)
def test_backtracking_descends_by_half_the_linear_part(problem):
    history = run(problem, "backtracking", 40).history
    gained = history.fun[:-1] - history.fun[1:]
    promised = history.step[:-1] * history.measure[:-1] / 2
    rounding = 1e-14 * history.fun.abs().max()
    assert (gained >= promised * (1 - 1e-12) - rounding).all()


@pytest.mark.parametrize("problem", STEEP, ids=name)
def test_backtracking_counts_and_finds_the_smoothness(problem):
    """Accepted constants stay below twice `L0 + L1 D`; evaluations below 2 n + a start."""
    result = run(problem, "backtracking", 60)
    history = result.history
    # Beyond, values differ by rounding only.
    moving = history.measure[:-1] > 1e-6 * history.measure[0]
    constant = (history.measure[:-1] / history.step[:-1])[moving]
    dual = history.measure[:-1][moving]
    # A_k = L0 + L1 D_k, and the envelope of the proof: M_k <= 2 max_j 2^(j - k) A_j.
    envelope, allowed = [], float(constant[0])
    for d in dual.tolist():
        allowed = max(allowed / 2, 2 * (problem.L0 + problem.L1 * d))
        envelope.append(allowed)
    assert (constant <= torch.tensor(envelope, dtype=torch.float64) * (1 + 1e-9)).all()
    short = minimize(
        problem.fun,
        problem.x0,
        method="ggnc",
        norm=problem.norm,
        gamma="backtracking",
        tol=1e-5 * float(dual[0]),
    )
    assert short.success
    # The start, its probe and doublings; then one trial a step and one for each doubling.
    spread = math.log2(float(constant.max() / constant.min()))
    assert short.nfev <= 2 * short.nit + spread + 3


@pytest.mark.parametrize("share", [0.1, 1e-3, 1e-6])
@pytest.mark.parametrize("problem", STEEP, ids=name)
def test_backtracking_with_a_threshold_finds_its_constant(problem, share):
    """Above `2 (L0 + rho L1)` the constant halves at every step; a step is at most `rho/M`."""
    rho = share * float(run(problem, "backtracking", 1).history.measure[0])
    history = run(problem, "backtracking", 60, rho=rho).history
    assert (history.fun[1:] <= history.fun[:-1] * (1 + 1e-14)).all()
    assert float(history.fun[-1]) < 0.2 * float(history.fun[0])
    moving = history.measure[:-1] > 1e-6 * history.measure[0]
    constant = (history.measure[:-1].clamp(max=rho) / history.step[:-1])[moving]
    halved = constant[0] * 0.5 ** torch.arange(len(constant), dtype=torch.float64)
    limit = halved.clamp(min=2 * (problem.L0 + rho * problem.L1))
    assert (constant <= limit * (1 + 1e-9)).all()


@pytest.mark.parametrize(
    ("start", "rho", "most"),
    [(20.0, 1.0, 30), (20.0, 1e-3, 30), (10.0, 1.0, 20), (5.0, 1.0, 12), (5.0, 100.0, 12)],
)
def test_backtracking_with_a_threshold_does_not_stall_where_the_gradient_is_large(start, rho, most):
    """The curvature along a short step is about `L1 D`, far above what the threshold needs."""
    problem = problems.cosh(torch.ones(1, dtype=torch.float64), Euclidean())
    x0 = torch.tensor([start], dtype=torch.float64)
    history = run(replace(problem, x0=x0), "backtracking", 100, rho=rho).history
    delta = float(history.fun[0]) - 2
    first = min(rho, float(history.measure[0])) / float(history.step[0])
    options = {"L0": problem.L0, "L1": problem.L1, "first": first, "rho": rho}
    low = history.measure[:-1].cummin(0).values
    for n in range(20, 101):
        assert float(low[n - 1]) <= bounds.backtracking_threshold(n, delta, **options)
        assert float(low[n - 1]) <= bounds.backtracking_ggnc(n, delta, **options)
    assert float(low[most]) < 1e-3


def test_a_first_trial_that_is_far_too_large_is_halved_at_every_step(monkeypatch):
    """From a dual norm of 5e8: the curvature that is seen meanwhile is about that."""
    problem = problems.cosh(torch.ones(1, dtype=torch.float64), Euclidean())
    x0 = torch.tensor([20.0], dtype=torch.float64)
    monkeypatch.setattr(Backtracking, "_first", lambda self, ray: 2.0**20 * 4.9e8)
    history = run(replace(problem, x0=x0), "backtracking", 80, rho=1.0).history
    constant = 1 / history.step[history.measure > 1]
    wait = math.ceil(math.log2(float(constant[0]) / (2 * (problem.L0 + problem.L1))))
    assert wait >= 18
    assert torch.allclose(constant[1:wait] / constant[: wait - 1], constant.new_tensor(0.5))
    assert (constant[wait:] <= 2 * (problem.L0 + problem.L1)).all()
    assert float(history.measure[80]) < 1e-6


@pytest.mark.parametrize("rho", [1.0, 1e-3, None])
def test_backtracking_where_rounding_hides_the_decrease(rho):
    """Beside a constant of 1e12, values are exact to 1e-4 only: there the slopes decide."""
    problem = problems.cosh(torch.ones(1, dtype=torch.float64), Euclidean())
    x0 = torch.tensor([10.0], dtype=torch.float64)
    lifted = replace(problem, fun=lambda x: problem.fun(x) + 1e12, x0=x0)
    result = run(lifted, "backtracking", 300, rho=rho)
    assert float(result.history.measure[-1]) < 1e-6
    assert (result.history.measure.diff() <= 1e-9).all()


def test_the_short_step_is_variant_1_when_the_constants_are_searched():
    ball = shifted(problems.quadratic((0.1, 0.5, 2.0, 10.0), SIGN), 1.0, beta=0.5)
    one, other = (run(ball, "backtracking", 30, m).history for m in ("short-step", "s3cg-1"))
    assert torch.equal(one.step, other.step)
    assert torch.equal(one.fun, other.fun)


@pytest.mark.parametrize("geometry", list(GEOMETRIES))
def test_adagrad_with_a_threshold_under_its_bound(geometry):
    """The theorem is on `min(rho, D)`; once its bound is below `rho`, on `D` itself."""
    problem = GEOMETRIES[geometry]().smooth
    rho = 0.3 * float(run(problem, "adagrad", 1).history.measure[0])
    history = run(problem, "adagrad", 300, rho=rho).history
    share = history.measure[:-1].clamp(max=rho)
    eta = float(history.step[0])
    assert torch.allclose(history.step[:-1], eta * share / share.square().cumsum(0).sqrt())
    for n in (1, 10, 100, 300):
        limit = bounds.adagrad(n, float(history.fun[0]), L=problem.L0, eta=eta, first=rho)
        assert float(share[:n].min()) <= limit


@pytest.mark.parametrize("geometry", list(GEOMETRIES))
@pytest.mark.parametrize("method", ["short-step", "s3cg-1", "s3cg-2"])
def test_backtracking_in_the_ball(geometry, method):
    problem = shifted(GEOMETRIES[geometry]().smooth, 1.0, beta=0.5)
    history = run(problem, "backtracking", 200, method).history
    assert (history.step[:-1] <= 1).all()
    gained = history.fun[:-1] - history.fun[1:]
    promised = history.step[:-1] * history.measure[:-1].clamp(min=0) / 2
    assert (gained >= promised - 1e-13 * history.fun[0].abs()).all()
    delta = float(history.fun[0] - (history.fun - history.measure).max())
    first = float(history.measure[0] / history.step[0])
    limit = bounds.backtracking_short_step(200, delta, L=problem.L0, beta=0.5, first=first)
    assert float(history.measure[:-1].min()) <= limit


@pytest.mark.parametrize("geometry", list(GEOMETRIES))
def test_adagrad_under_its_bound(geometry):
    problem = GEOMETRIES[geometry]().smooth
    history = run(problem, "adagrad", 300).history
    first, eta = float(history.measure[0]), float(history.step[0])
    low = history.measure[:-1].cummin(0).values
    for n in (1, 10, 100, 300):
        limit = bounds.adagrad(n, float(history.fun[0]), L=problem.L0, eta=eta, first=first)
        assert float(low[n - 1]) <= limit
    # eta is the first step and the longest one.
    assert (history.step <= eta * (1 + 1e-12)).all()


def test_adagrad_by_hand():
    """`t_k = eta D_k / sqrt(D_1^2 + ... + D_k^2)`, with eta = D_1/curvature."""
    problem = problems.quadratic((1.0, 4.0), SIGN)
    history = run(problem, "adagrad", 20).history
    duals = history.measure[:-1]
    expected = float(history.step[0]) * duals / duals.square().cumsum(0).sqrt()
    assert torch.allclose(history.step[:-1], expected, rtol=1e-12)
    ball = shifted(problem, 1.0, beta=0.5)
    history = run(ball, "adagrad", 20, "s3cg-2").history
    gaps = history.measure[:-1]
    assert torch.allclose(history.step[:-1], gaps / gaps.square().cumsum(0).sqrt(), rtol=1e-12)
    assert float(history.step[0]) == 1.0


def test_scale_of_the_function_does_not_matter():
    """Nothing is known, so nothing may depend on units: c f takes the steps of f."""
    problem = STEEP[0]
    for gamma in ("backtracking", "adagrad"):
        histories = []
        for c in (1e-6, 1.0, 1e6):
            scaled = minimize(
                lambda x, c=c: c * problem.fun(x),
                problem.x0,
                method="ggnc",
                norm=problem.norm,
                gamma=gamma,
                max_iter=8,
                tol=0,
            )
            histories.append(scaled.history.step)
        assert torch.allclose(histories[0], histories[1], rtol=1e-5)
        assert torch.allclose(histories[2], histories[1], rtol=1e-5)


@pytest.mark.parametrize(
    "problem",
    [
        problems.quadratic((0.1, 0.5, 2.0, 10.0), Euclidean()),
        problems.quadratic((0.1, 0.5, 2.0, 10.0), Spectral("plain"), 3),
        problems.fourth_power(5, SIGN),
        problems.phase_retrieval(5, Euclidean()),
    ],
    ids=name,
)
def test_backtracking_against_the_best_of_a_grid(problem):
    contest = tuning.compete(problem, max_iter=400)
    assert contest.backtracking <= 2 * contest.fixed
    # The grid's best is a run of `minimize` too.
    again = minimize(
        problem.fun,
        problem.x0,
        method="ggnc",
        norm=problem.norm,
        gamma=contest.gamma,
        rho=contest.rho,
        max_iter=int(contest.fixed) - 1,
        tol=0,
    )
    measure = again.history.measure
    assert float(measure[-1]) <= 1e-3 * float(measure[0]) < float(measure[-2])
    assert f"{contest.fixed:g}" in tuning.contest_table([contest])
