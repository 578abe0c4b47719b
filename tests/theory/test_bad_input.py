"""What `minimize` refuses, and how it stops where a function misbehaves."""

import math
import re

import numpy as np
import pytest
import torch

from normball.norms import L1, Euclidean, Nuclear, Product, Spectral
from normball.theory import minimize
from tests.theory.test_minimize import CENTRE, SIGN, ZERO, bowl


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": ["ggnc"]}, r"method=\['ggnc'\] must be one of"),
        ({"method": "gnc"}, r"must be one of sd, .*did you mean 'ggnc'"),
        ({"method": "sd"}, "method 'sd' needs gamma"),
        ({"method": "sd", "gamma": 1.0, "rho": 1.0}, "method 'sd' takes no rho"),
        ({"method": "ggnc", "gamma": 1.0}, "method 'ggnc' needs rho"),
        ({"method": "ggnc", "gamma": 1.0, "rho": 1.0, "beta": 1.0}, "takes no beta"),
        ({"method": "ucg", "gamma": 1.0}, "method 'ucg' needs rho"),
        ({"method": "ucg", "gamma": "adagrad", "rho": 1.0}, "'ucg' has no gamma='adagrad'"),
        ({"method": "cg", "gamma": 0.5}, "method 'cg' needs beta"),
        ({"method": "cg", "gamma": 1.5, "beta": 1.0}, "gamma=1.5 must be at most 1"),
        ({"method": "s3cg-1", "gamma": "adagrad", "beta": 1.0}, "has no gamma='adagrad'"),
        (
            {"method": "s3cg-2", "gamma": "backtracking", "beta": 1.0, "rho": 1.0},
            "takes no rho with gamma='backtracking'",
        ),
        ({"method": "s3cg-2", "gamma": 2.0, "rho": 1.0, "beta": 1.0}, r"gamma\*rho=2 must be"),
        ({"method": "sd", "gamma": "newton"}, "gamma='newton' must be a number"),
        ({"method": "sd", "gamma": -1.0}, "gamma=-1.0 must be positive"),
        ({"method": "sd", "gamma": math.nan}, "gamma=nan must be positive"),
        ({"method": "sd", "gamma": 1.0, "alpha": 0.0}, "alpha=0.0"),
        ({"method": "sd", "gamma": "backtracking", "alpha": 0.5}, "needs alpha=1"),
        ({"method": "sd", "gamma": 1.0, "max_iter": 0}, "max_iter=0"),
        ({"method": "sd", "gamma": 1.0, "tol": -1.0}, "tol=-1.0"),
    ],
)
def test_parameters_are_refused_by_name(options, message):
    with pytest.raises(ValueError, match=message):
        minimize(bowl, ZERO, norm=Euclidean(), **options)


def test_a_start_outside_the_ball_is_refused_with_its_norm():
    with pytest.raises(ValueError, match=r"norm\(x0\) = 4 > beta = 2"):
        minimize(bowl, CENTRE, method="short-step", norm=L1(), gamma=0.1, beta=2.0)
    # On the sphere, up to rounding, is inside.
    on = CENTRE / 4 * 0.3
    result = minimize(bowl, on, method="short-step", norm=L1(), gamma=0.1, beta=0.3)
    assert result.success


@pytest.mark.parametrize("gamma", [0.9, "adagrad"])
def test_a_function_that_returns_nan_stops_at_the_last_finite_point(gamma):
    """`log` leaves its domain."""

    def fun(x):
        return (x - torch.log(x)).sum() * 30

    x0 = torch.tensor([0.5], dtype=torch.float64)
    options = {"method": "ggnc", "norm": Euclidean(), "gamma": gamma}
    if gamma == 0.9:
        result = minimize(fun, x0, rho=50.0, **options)
        assert not result.success
        assert "fun returned nan" in result.message
        assert torch.isfinite(result.x).all()
        assert math.isfinite(result.fun)
        assert result.fun == pytest.approx(float(fun(result.x)))
        assert torch.isfinite(result.history.fun).all()
    # Backtracking does not take such a step.
    found = minimize(fun, x0, **options | {"gamma": "backtracking"})
    assert found.success
    assert float(found.x) == pytest.approx(1.0, abs=1e-6)


def test_a_start_that_is_not_finite_is_refused():
    with pytest.raises(ValueError, match="fun returned nan"):
        minimize(lambda x: x.sum() * math.nan, ZERO, method="sd", norm=Euclidean(), gamma=0.1)
    with pytest.raises(ValueError, match="gradient is not finite"):
        minimize(lambda x: x.sqrt().sum(), ZERO, method="sd", norm=Euclidean(), gamma=0.1)


@pytest.mark.parametrize("gamma", [1.0, "backtracking", "adagrad"])
def test_an_unbounded_problem_stops_at_the_limit_and_says_so(gamma):
    result = minimize(
        lambda x: x.sum(), ZERO, method="sd", norm=Euclidean(), gamma=gamma, max_iter=600
    )
    assert not result.success
    assert result.nit == 600
    assert "limit of 600 steps" in result.message
    if gamma != "adagrad":  # its steps shrink as if it converged
        assert "unbounded below" in result.message


def test_a_function_without_descent_is_reported():
    """The gradient says one thing and the function another."""
    result = minimize(
        lambda x: 2 * x.detach().sum() - x.sum(),
        ZERO,
        method="ggnc",
        norm=Euclidean(),
        gamma="backtracking",
    )
    assert not result.success
    assert "no step along the direction" in result.message


@pytest.mark.parametrize(
    ("x0", "norm", "message"),
    [
        ([ZERO, ZERO], Nuclear(), "give several a Product"),
        (ZERO, Product([SIGN]), r"write \[x0\]"),
        (torch.zeros(2, dtype=torch.int64), SIGN, "real floating dtype"),
        ([ZERO, torch.zeros(2)], SIGN, "share one dtype"),
        (ZERO, "sign", "must be a norm"),
    ],
)
def test_wrong_types(x0, norm, message):
    with pytest.raises(TypeError, match=message):
        minimize(lambda x: 0, x0, method="sd", norm=norm, gamma=0.1)


@pytest.mark.parametrize(
    "options",
    [
        {"gamma": torch.tensor(0.1)},
        {"gamma": True},
        {"gamma": 0.1, "rho": "auto"},
        {"gamma": 0.1, "rho": torch.tensor(1.0)},
        {"gamma": 0.1, "alpha": "0.5"},
        {"gamma": 0.1, "tol": "small"},
        {"gamma": 0.1, "tol": None},
    ],
)
def test_what_is_no_number_is_refused_by_name(options):
    name, value = list(options.items())[-1]
    with pytest.raises(TypeError, match=rf"^{name}={re.escape(repr(value))} must be a number"):
        minimize(bowl, ZERO, method="ggnc", norm=Euclidean(), **{"rho": 1.0} | options)


def test_numbers_of_numpy_are_numbers():
    def run(number, whole):
        return minimize(
            bowl,
            ZERO,
            method="s3cg-2",
            norm=Euclidean(),
            gamma=number(0.25),
            rho=number(1.5),
            beta=number(2.0),
            alpha=number(0.5),
            max_iter=whole(5),
            tol=number(0.0),
        )

    assert torch.equal(run(np.float32, np.int64).x, run(float, int).x)
    with pytest.raises(ValueError, match="max_iter=True"):
        minimize(bowl, ZERO, method="sd", norm=Euclidean(), gamma=0.1, max_iter=True)


@pytest.mark.parametrize(
    "fun", [lambda x: bowl(x.detach()), torch.no_grad()(bowl), lambda x: bowl(x).long()]
)
def test_a_function_cut_off_from_its_argument_is_no_success(fun):
    with pytest.raises(ValueError, match="does not depend on it"):
        minimize(fun, ZERO, method="sd", norm=Euclidean(), gamma=0.1)


def test_a_function_may_be_constant_further_on():
    """Its slope is 1 above 0, and below it is a number."""

    def fun(x):
        return x if float(x.detach()) > 0 else torch.tensor(0.0, dtype=torch.float64)

    one = torch.tensor(1.0, dtype=torch.float64)
    result = minimize(fun, one, method="ucg", norm=Euclidean(), gamma=0.4, rho=1.0)
    assert result.success
    assert (result.nit, result.fun) == (3, 0.0)


@pytest.mark.parametrize("size", [1e-300, 1e-150, 1e150, 1e300])
@pytest.mark.parametrize("height", [1e-150, 1.0])
@pytest.mark.parametrize("method", ["ggnc", "short-step", "s3cg-1", "s3cg-2"])
def test_the_scale_of_a_problem_is_no_reason_to_raise(method, height, size):
    """Squares of such lengths, and their products with a curvature, are 0 or infinite."""
    result = minimize(
        lambda x: height * (x / size - 1).square().sum(),
        torch.tensor([0.3 * size, -0.2 * size], dtype=torch.float64),
        method=method,
        norm=Euclidean(),
        gamma="backtracking",
        beta=None if method == "ggnc" else size,
        max_iter=20,
        tol=0,
    )
    assert torch.isfinite(result.x).all()
    assert result.fun <= result.history.fun[0]


def test_parameters_of_a_module_are_a_start():
    module = torch.nn.Linear(2, 1).double()
    result = minimize(
        lambda x: sum((p - 1).square().sum() for p in x),
        module.parameters(),
        method="sd",
        norm=Euclidean(),
        gamma=0.5,
    )
    assert result.success
    assert [x.shape for x in result.x] == [(1, 2), (1,)]


def test_wrong_shapes_and_values():
    with pytest.raises(ValueError, match="needs a matrix"):
        minimize(bowl, ZERO, method="sd", norm=Spectral(), gamma=0.1)
    with pytest.raises(ValueError, match="holds no tensor"):
        minimize(bowl, [], method="sd", norm=SIGN, gamma=0.1)
    for fun, got in (
        (lambda x: x, r"shape \(2,\)"),
        (lambda x: (x * 1j).sum(), "complex128"),
        (lambda x: 3.0, "3.0"),
    ):
        with pytest.raises(TypeError, match=f"real tensor without dimensions, got .*{got}"):
            minimize(fun, ZERO, method="sd", norm=SIGN, gamma=0.1)
