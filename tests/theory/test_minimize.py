"""`minimize` against closed forms, cvxpy, other implementations, and its own contract."""

import warnings

import cvxpy as cp
import numpy as np
import pytest
import torch

from normball.norms import L1, Euclidean, Product, Sign, Spectral
from normball.theory import minimize, problems

with warnings.catch_warnings():
    # It imports a module of SciPy that will go, and does not use it.
    warnings.simplefilter("ignore")
    import copt

SIGN = Sign(normalized=False)
CENTRE = torch.tensor([3.0, -1.0], dtype=torch.float64)
CURVATURE = torch.tensor([1.0, 10.0], dtype=torch.float64)
ZERO = torch.zeros(2, dtype=torch.float64)

UNCONSTRAINED = [
    ("sd", {"gamma": 0.09}),
    ("sd", {"gamma": "backtracking"}),
    ("sd", {"gamma": "adagrad"}),
    ("ggnc", {"gamma": 0.09, "rho": 5.0}),
    ("ggnc", {"gamma": "backtracking"}),
    ("ggnc", {"gamma": "backtracking", "rho": 2.0}),
    ("ggnc", {"gamma": "adagrad"}),
    ("ggnc", {"gamma": "adagrad", "rho": 2.0}),
]
CONSTRAINED = [
    ("short-step", {"gamma": "1/L"}),
    ("short-step", {"gamma": "backtracking"}),
    ("short-step", {"gamma": "adagrad"}),
    ("s3cg-1", {"gamma": "1/L", "rho": "L"}),
    ("s3cg-1", {"gamma": "backtracking"}),
    ("s3cg-2", {"gamma": "1/L", "rho": "L"}),
    ("s3cg-2", {"gamma": "backtracking"}),
    ("s3cg-2", {"gamma": "adagrad"}),
    ("cg", {"gamma": 0.005}),
]


def bowl(x):
    return (CURVATURE * (x - CENTRE).square()).sum() / 2


def with_constants(options, L):
    return {k: {"1/L": 1 / L, "L": L}.get(v, v) for k, v in options.items()}


def named(case):
    method, options = case
    return "-".join([method, *(str(v) for v in options.values())])


# -- minima ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", UNCONSTRAINED, ids=named)
@pytest.mark.parametrize("norm", [Euclidean(), SIGN, L1()], ids=str)
def test_unconstrained_minimum(case, norm):
    method, options = case
    if norm == SIGN and isinstance(options["gamma"], float):
        options = options | {"gamma": 1 / 11}  # L is the sum of the curvatures
    result = minimize(bowl, ZERO, method=method, norm=norm, tol=1e-7, max_iter=5000, **options)
    assert result.success
    assert torch.allclose(result.x, CENTRE, atol=1e-6)
    assert result.fun < 1e-12
    assert torch.equal(ZERO, torch.zeros(2, dtype=torch.float64))


def minimum_by_cvxpy(problem, kind):
    """The minimum of a least-squares problem over its ball, from its values at basis points."""
    shape = problem.x0.shape
    size = problem.x0.numel()
    eye = torch.eye(size, dtype=torch.float64)
    f0 = float(problem.fun(problem.x0))
    unit = [float(problem.fun(e.view(shape))) for e in eye]
    back = [float(problem.fun(-e.view(shape))) for e in eye]
    hessian = np.empty((size, size))
    for i in range(size):
        for j in range(size):
            both = float(problem.fun((eye[i] + eye[j]).view(shape)))
            hessian[i, j] = both - unit[i] - unit[j] + f0
    hessian[np.diag_indices(size)] = np.array(unit) + np.array(back) - 2 * f0
    linear = (np.array(unit) - np.array(back)) / 2
    x = cp.Variable(size)
    ball = cp.norm(x, 1) if kind == "l1" else cp.normNuc(cp.reshape(x, shape, order="C"))
    goal = cp.quad_form(x, cp.psd_wrap((hessian + hessian.T) / 2)) / 2 + linear @ x
    model = cp.Problem(cp.Minimize(goal), [ball <= problem.beta])
    model.solve(solver=cp.CLARABEL)
    return model.value + f0


@pytest.fixture(scope="module")
def regressions():
    sparse, low_rank = problems.sparse(rows=40, size=12), problems.low_rank(4, 3, 40)
    return {
        "l1": (sparse, minimum_by_cvxpy(sparse, "l1")),
        "nuclear": (low_rank, minimum_by_cvxpy(low_rank, "nuclear")),
    }


@pytest.mark.parametrize("case", CONSTRAINED, ids=named)
@pytest.mark.parametrize("kind", ["l1", "nuclear"])
def test_constrained_minimum_against_cvxpy(case, kind, regressions):
    problem, minimum = regressions[kind]
    method, options = case
    result = minimize(
        problem.fun,
        problem.x0,
        method=method,
        norm=problem.norm,
        beta=problem.beta,
        max_iter=700,
        tol=0,
        **with_constants(options, problem.L0),
    )
    gap = float(result.history.measure[-1])
    # The gap bounds the error, as the function is convex.
    assert result.fun <= minimum + gap + 1e-6
    assert result.fun >= minimum - 1e-6
    assert result.fun - minimum < 0.05
    assert float(problem.norm.norm(result.x)) <= problem.beta * (1 + 1e-12)


def test_logistic_regression_against_cvxpy():
    problem = problems.breast_cancer(L1(), beta=3.0)
    rows = torch.func.jacrev(lambda x: torch.func.grad(problem.fun)(x))(problem.x0)
    assert float(rows.abs().max()) <= problem.L0
    from sklearn.datasets import load_breast_cancer

    data = load_breast_cancer()
    a = (data.data - data.data.mean(0)) / data.data.std(0, ddof=1)
    x = cp.Variable(a.shape[1])
    y = 2 * data.target - 1
    loss = cp.sum(cp.logistic(-cp.multiply(y, a @ x))) / len(y)
    model = cp.Problem(cp.Minimize(loss), [cp.norm(x, 1) <= 3])
    model.solve(solver=cp.CLARABEL)
    result = minimize(
        problem.fun,
        problem.x0,
        method="short-step",
        norm=L1(),
        gamma="backtracking",
        beta=3.0,
        max_iter=1000,
        tol=3e-3,
    )
    assert result.success
    assert 0 <= result.fun - model.value + 1e-7 < 3e-3


# -- steps against other implementations -----------------------------------------------------------


RULES = {
    "cg": ({"gamma": 0.05}, lambda problem, gap, w: 0.05),
    "short-step": (
        {"gamma": 0.5},
        lambda problem, gap, w: min(1.0, 0.5 * gap / np.abs(w).sum() ** 2),
    ),
    "s3cg-1": (
        {"gamma": 0.5, "rho": 0.3},
        lambda problem, gap, w: 0.5 * min(0.3, gap / np.abs(w).sum() ** 2),
    ),
    "s3cg-2": (
        {"gamma": 0.5, "rho": 0.3},
        lambda problem, gap, w: 0.5 * min(0.3, gap / (4 * problem.beta**2)),
    ),
}


@pytest.mark.parametrize("method", RULES)
def test_steps_on_the_l1_ball_against_copt(method):
    """Its corners, gaps and iterates; only the length of a step is told to it."""
    problem = problems.sparse(rows=40, size=12)
    options, rule = RULES[method]
    gaps = []

    def value_and_grad(x):
        point = torch.tensor(x, requires_grad=True)
        value = problem.fun(point)
        value.backward()
        return value.item(), point.grad.numpy()

    def step(known):
        gaps.append(known["certificate"])
        return rule(problem, known["certificate"], known["update_direction"])

    theirs = copt.minimize_frank_wolfe(
        value_and_grad,
        np.zeros(12),
        copt.constraint.L1Ball(problem.beta).lmo,
        jac=True,
        step=step,
        lipschitz=problem.L0,
        max_iter=60,
        tol=0,
    )
    result = minimize(
        problem.fun,
        problem.x0,
        method=method,
        norm=L1(),
        beta=problem.beta,
        max_iter=len(gaps),
        tol=0,
        **options,
    )
    assert len(gaps) >= 59
    assert np.allclose(result.history.measure[: len(gaps)].numpy(), gaps, rtol=1e-9)
    assert np.allclose(result.x.numpy(), theirs.x, atol=1e-10)


def test_clipped_gradient_descent_against_torch():
    """`clip_grad_norm_` and SGD, on two tensors under one joint norm."""
    problem = problems.cosh([CENTRE, torch.ones(2, 2, dtype=torch.float64)], Euclidean())
    params = [torch.nn.Parameter(x.clone()) for x in problem.x0]
    gamma, rho = 0.02, 3.0
    optimizer = torch.optim.SGD(params, lr=gamma)
    for _ in range(50):
        optimizer.zero_grad()
        problem.fun(params).backward()
        torch.nn.utils.clip_grad_norm_(params, rho)
        optimizer.step()
    result = minimize(
        problem.fun,
        problem.x0,
        method="ggnc",
        norm=Euclidean(),
        gamma=gamma,
        rho=rho,
        max_iter=50,
        tol=0,
    )
    for ours, theirs in zip(result.x, params, strict=True):
        assert torch.allclose(ours, theirs, atol=1e-5)  # torch adds 1e-6 to its denominator


def test_momentum_against_the_definition():
    """`d <- (1 - a) d + a g` from 0, then a sign step."""
    x, d = ZERO.clone(), ZERO.clone()
    for _ in range(20):
        d = 0.7 * d + 0.3 * CURVATURE * (x - CENTRE)
        x = x - 0.05 * torch.sign(d)
    result = minimize(
        bowl, ZERO, method="ucg", norm=SIGN, gamma=0.1, rho=0.5, alpha=0.3, max_iter=20, tol=0
    )
    assert torch.allclose(result.x, x, atol=1e-12)


def test_blocks_of_a_product_norm():
    """One step of uCG in a product norm moves every block by its radius."""
    norm = Product([SIGN, Spectral("plain")], (0.5, 2.0))
    x0 = [torch.ones(3, dtype=torch.float64), torch.eye(2, dtype=torch.float64)]
    result = minimize(
        lambda x: x[0].sum() - x[1].trace(),
        x0,
        method="ucg",
        norm=norm,
        gamma=1.0,
        rho=0.1,
        max_iter=1,
        tol=0,
    )
    assert torch.allclose(result.x[0], torch.full((3,), 0.95, dtype=torch.float64))
    assert torch.allclose(result.x[1], 1.2 * torch.eye(2, dtype=torch.float64))


# -- the result ------------------------------------------------------------------------------------


def test_history_has_one_entry_per_iterate():
    seen = []
    result = minimize(
        bowl,
        ZERO,
        method="ggnc",
        norm=Euclidean(),
        gamma=0.05,
        rho=2.0,
        max_iter=7,
        tol=0,
        callback=seen.append,
    )
    assert (result.nit, result.nfev, len(seen)) == (7, 8, 8)
    history = result.history
    assert history.fun.shape == history.measure.shape == history.step.shape == (8,)
    assert history.fun.tolist() == [s.fun for s in seen]
    assert history.measure.tolist() == [s.measure for s in seen]
    # Clipped at first: steps of gamma rho, in units of the norm.
    assert float(history.step[0]) == pytest.approx(0.1)
    moved = torch.linalg.vector_norm(seen[1].x - seen[0].x)
    assert float(moved) == pytest.approx(0.1)
    assert float(history.step[-1]) == 0
    assert result.success
    assert "all 7 steps" in result.message


def test_tolerance_stops_and_zero_does_not():
    options = {"method": "sd", "norm": Euclidean(), "gamma": 0.1}
    result = minimize(bowl, ZERO, tol=0.5, **options)
    assert result.success
    assert result.history.measure[-1] <= 0.5 < result.history.measure[-2]
    assert "tol=0.5" in result.message
    at_minimum = minimize(bowl, CENTRE, tol=0, max_iter=12, **options)
    assert at_minimum.nit == 12
    for gamma in ("backtracking", "adagrad"):
        result = minimize(bowl, CENTRE, method="ggnc", norm=SIGN, gamma=gamma, tol=0, max_iter=12)
        assert result.nit == 12
        assert torch.equal(result.x, CENTRE)
    short = minimize(bowl, ZERO, max_iter=3, **options)
    assert not short.success
    assert "limit of 3 steps" in short.message


def test_evaluations_are_counted():
    calls = []

    def fun(x):
        calls.append(1)
        return bowl(x)

    for gamma in ("backtracking", "adagrad"):
        calls.clear()
        result = minimize(fun, ZERO, method="ggnc", norm=Euclidean(), gamma=gamma)
        assert result.nfev == len(calls)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_runs_in_its_own_dtype(dtype):
    for gamma in (0.05, "backtracking", "adagrad"):
        result = minimize(
            lambda x: (x - 1).square().sum(),
            torch.zeros(3, dtype=dtype),
            method="sd",
            norm=Euclidean(),
            gamma=gamma,
            tol=1e-3,
        )
        assert result.x.dtype == dtype
        assert result.success


def test_a_stochastic_function_draws_its_own_samples():
    generator = torch.Generator().manual_seed(0)

    def fun(x):
        noise = torch.randn(2, generator=generator, dtype=x.dtype)
        return bowl(x) + (noise * x).sum()

    for options in ({"gamma": 0.01, "rho": 5.0}, {"gamma": "adagrad"}):
        result = minimize(
            fun, ZERO, method="ggnc", norm=Euclidean(), alpha=0.1, max_iter=2000, tol=0, **options
        )
        assert float((result.x - CENTRE).norm()) < 0.5


def test_callback_stops():
    def stop(state):
        if state.nit == 3:
            raise StopIteration

    result = minimize(bowl, ZERO, method="sd", norm=Euclidean(), gamma=0.01, callback=stop)
    assert result.nit == 3
    assert not result.success
    assert "callback" in result.message
