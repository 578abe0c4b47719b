"""The bounds: their conditions, their limits, and the printed statements that fail."""

import math

import pytest
import torch

from normball.norms import Euclidean
from normball.theory import bounds, minimize, printed
from normball.theory.bounds import (
    ggnc_error,
    momentum_error,
    s3cg_error,
)

GGNC = {"gamma": 0.1, "rho": 2.0, "L0": 1.0, "L1": 1.0}
S3CG = {"gamma": 0.5, "rho": 1.0, "L": 2.0, "beta": 1.5}
LINE = Euclidean()


def line(value):
    return torch.tensor([value], dtype=torch.float64)


def dual_norms(fun, x0, **options):
    result = minimize(fun, line(x0), norm=LINE, tol=0, **options)
    return result.history


# -- the printed statements that fail, each by a run -----------------------------------------------


def test_theorem_4_3_loses_a_root_of_two():
    def half_square(x):
        return x.square().sum() / 2

    for rho in (3.5, 10.0, 1e6):
        history = dual_norms(half_square, 1.0, method="ggnc", gamma=1.0, rho=rho, max_iter=1)
        assert float(history.measure[0]) == 1.0
        assert printed.ggnc(1, 0.5, gamma=1.0, rho=rho) == pytest.approx(0.7071 + 1 / rho, abs=1e-4)
        assert printed.ggnc(1, 0.5, gamma=1.0, rho=rho) < 1.0
        assert bounds.ggnc(1, 0.5, gamma=1.0, rho=rho, L0=1.0, L1=0.0) >= 1.0
    assert printed.ggnc(1, 0.5, gamma=1.0, rho=3.41) > 1.0
    # With equality in the limit.
    assert bounds.ggnc(1, 0.5, gamma=1.0, rho=1e9, L0=1.0, L1=0.0) == pytest.approx(1.0)


def test_theorem_4_3_special_choice_breaks_its_condition():
    history = dual_norms(
        lambda x: x.square().sum() / 2, 0.2, method="ggnc", gamma=1.0, rho=1.0, max_iter=1
    )
    assert float(history.measure[0]) == pytest.approx(0.2)
    assert printed.ggnc_special(1, 0.02, L0=1.0, L1=1.0) == pytest.approx(0.181, abs=1e-3)
    with pytest.raises(ValueError, match="gamma <= 1/\\(L0 \\+ rho L1\\)"):
        bounds.ggnc(1, 0.02, gamma=1.0, rho=1.0, L0=1.0, L1=1.0)
    assert bounds.ggnc(1, 0.02, gamma=0.5, rho=1.0, L0=1.0, L1=1.0) >= 0.2


def test_theorem_4_3_special_choice_does_not_descend():
    def fun(x):
        return printed.falling_slope(x[0])

    history = dual_norms(fun, 0.0, method="ggnc", gamma=1.0, rho=1.0, max_iter=1)
    gain = float(history.fun[0] - history.fun[1])
    assert gain == pytest.approx(2 * math.log(2) - 1)
    assert gain < 0.5  # what the printed choice promises
    proper = dual_norms(fun, 0.0, method="ggnc", gamma=0.5, rho=1.0, max_iter=1)
    promised = bounds.ggnc_descent(1.0, gamma=0.5, rho=1.0, L0=1.0, L1=1.0)
    assert float(proper.fun[0] - proper.fun[1]) >= promised


def test_falling_slope_is_one_one_smooth_and_convex():
    t = torch.linspace(-1, 2, 301, dtype=torch.float64)
    slope = torch.where(t < 0, 1.0, torch.where(t > 1, 0.0, 2 / (1 + t) - 1))
    change = (slope[:, None] - slope[None, :]).abs()
    distance = (t[:, None] - t[None, :]).abs()
    near = distance <= 1
    assert (change <= (1 + slope[:, None]) * distance + 1e-12)[near].all()
    assert (slope.diff() <= 0).all()
    x = (-t[150:250]).requires_grad_()
    (found,) = torch.autograd.grad(sum(printed.falling_slope(one) for one in x), x)
    assert torch.allclose(found, slope[150:250])


def test_theorem_4_7_drops_a_half():
    history = dual_norms(
        lambda x: (x + 0.95).square().sum() / 2,
        -1.0,
        method="s3cg-1",
        gamma=1.0,
        rho=1.0,
        beta=1.0,
        max_iter=1,
    )
    assert float(history.measure[0]) == pytest.approx(0.1)
    delta = 0.00125
    assert printed.s3cg(1, delta, gamma=1.0, rho=1.0, beta=1.0) == pytest.approx(0.0732, abs=1e-4)
    ours = bounds.s3cg(1, delta, gamma=1.0, rho=1.0, L=1.0, beta=1.0)
    assert ours == pytest.approx(0.1025, abs=1e-4)
    assert float(history.measure[0]) <= ours


def test_a_stochastic_bound_without_beta_fails_on_a_large_ball():
    """(x + 99.9)^2/2 on [-100, 100] from -100, one step, no noise: gap 20."""
    history = dual_norms(
        lambda x: (x + 99.9).square().sum() / 2,
        -100.0,
        method="s3cg-2",
        gamma=1.0,
        rho=1.0,
        beta=100.0,
        max_iter=1,
    )
    assert float(history.measure[0]) == pytest.approx(20.0)
    alpha, gamma, rho = bounds.s3cg_stochastic_parameters(1, L=1.0)
    assert (alpha, gamma, rho) == (1.0, 1.0, 1.0)
    ours = bounds.s3cg_stochastic(1, 0.005, gamma=gamma, rho=rho, L=1.0, beta=100.0, error=0.0)
    without = bounds.s3cg_stochastic(1, 0.005, gamma=gamma, rho=rho, L=1.0, beta=1.0, error=0.0)
    assert without < 0.32 < 20.0 <= ours


def test_counterexamples_table():
    for one in printed.counterexamples():
        assert one.printed < one.measured <= one.ours * (1 + 1e-9)


# -- conditions ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "condition"),
    [
        (lambda: bounds.ggnc(5, 1.0, **GGNC | {"gamma": 0.34}), r"gamma <= 1/\(L0 \+ rho L1\)"),
        (lambda: bounds.ggnc_descent(1.0, **GGNC | {"rho": 10.0}), r"gamma <= 1/\(L0"),
        (lambda: bounds.ggnc(0, 1.0, **GGNC), "n >= 1"),
        (lambda: bounds.ggnc(1, -1.0, **GGNC), "delta >= 0"),
        (lambda: bounds.ggnc(1, math.nan, **GGNC), "delta >= 0"),
        (lambda: bounds.ggnc(1, 1.0, **GGNC | {"rho": 0.0}), "rho > 0"),
        (lambda: bounds.ucg(1, 1.0, lr=-1.0, L=1.0), "lr > 0"),
        (lambda: bounds.ucg_relative(1, 1.0, lr=0.6, L0=1, L1=1), r"gamma rho <= 1/\(2 L1\)"),
        (lambda: bounds.ucg_relative_printed(1, 1.0, lr=0.6, L0=1, L1=1), "gamma rho <= 1/"),
        (lambda: bounds.ucg_relative_half(1, 1.0, lr=1.1, L0=1, L1=1), "gamma rho <= 1/L1"),
        (lambda: bounds.s3cg(1, 1.0, **S3CG | {"gamma": 0.6}), "gamma <= 1/L"),
        (lambda: bounds.s3cg(1, 1.0, **S3CG | {"rho": 2.1}), "gamma rho <= 1"),
        (lambda: bounds.s3cg_descent(1.0, **S3CG | {"beta": 0.0}), "beta > 0"),
        (lambda: bounds.ggnc_stochastic(1, 1, gamma=2, rho=1, L=1, error=0), "gamma <= 1/L"),
        (lambda: bounds.ggnc_stochastic(1, 1, gamma=1, rho=1, L=1, error=-1), "error >= 0"),
        (lambda: bounds.s3cg_stochastic(1, 1, **S3CG | {"rho": 9.0}, error=0), "gamma rho"),
        (lambda: momentum_error(1, alpha=1.5, sigma=1, drift=0, first_gradient=1), "alpha <= 1"),
        (lambda: momentum_error(0, alpha=0.5, sigma=1, drift=0, first_gradient=1), "n >= 1"),
        (lambda: bounds.average_gap(3, 1.0, average=1.1), "average <= 1"),
        (lambda: bounds.average_gap(0, 1.0, average=0.1), "n >= 1"),
        (lambda: bounds.average_gap(3, math.nan, average=0.1), "total >= 0"),
        (lambda: bounds.backtracking_ggnc(3, 1.0, L0=1, L1=1, first=32.0), "n > log2"),
        (
            lambda: bounds.backtracking_short_step(3, 1.0, L=1, beta=1, first=32.0),
            r"n > log2\(first/\(2 L\)\) .* L=1",
        ),
        (lambda: bounds.backtracking_ggnc(3, 1.0, L0=0, L1=1), "L0 > 0"),
        (lambda: bounds.backtracking_ggnc(3, 1.0, L0=1, L1=0, rho=2.0, first=9.0), "rho L1 > 0"),
        (lambda: bounds.backtracking_ggnc(3, 1.0, L0=1, L1=1, rho=math.nan), "rho > 0"),
        (lambda: bounds.backtracking_ggnc(3, 1.0, L0=1, L1=1, first=0.0), "first > 0"),
        (
            lambda: bounds.backtracking_ggnc(9, 1.0, L0=1, L1=1, rho=0.01, first=32.0),
            r"n > log2\(first/\(2 min\(L0, rho L1\)\)\)",
        ),
        (
            lambda: bounds.backtracking_threshold(3, 1.0, rho=1, L0=1, L1=1, first=64.0),
            r"n > log2\(first/\(2 \(L0 \+ rho L1\)\)\)",
        ),
        (lambda: bounds.backtracking_threshold(3, 1.0, rho=1, L0=0, L1=0), "L0 \\+ rho L1 > 0"),
        (lambda: bounds.backtracking_threshold(3, 1.0, rho=math.inf, L0=1, L1=1), "rho > 0"),
        (lambda: bounds.adagrad(3, 1.0, L=1, eta=0.0, first=1), "eta > 0"),
        (lambda: bounds.ggnc_descent(-1.0, **GGNC), "dual_norm >= 0"),
        (lambda: bounds.s3cg_descent(math.nan, **S3CG), "gap >= 0"),
        (lambda: ggnc_error([], rho=1.0, zeta=1.0), "one second moment or more"),
        (lambda: ggnc_error([1.0, -1.0], rho=1.0, zeta=1.0), "second_moments >= 0"),
        (lambda: s3cg_error([math.nan], rho=1.0, zeta=1.0, beta=1.0), "second_moments >= 0"),
    ],
)
def test_conditions_are_named(call, condition):
    with pytest.raises(ValueError, match=condition):
        call()


def test_rounding_does_not_refuse_a_natural_choice():
    """`gamma rho` with `gamma = 1/(2 L0)`, `rho = L0/L1` is `1/(2 L1)`, give or take a rounding."""
    for i in range(1, 400):
        L0, L1 = 0.37 * i, 30.0 / i
        lr = 1 / (2 * L0) * (L0 / L1)
        exact = 4 / 3 / lr + 2 / 3 * L0 * lr
        assert bounds.ucg_relative(1, 1.0, lr=lr, L0=L0, L1=L1) == pytest.approx(exact)
        assert bounds.ucg_relative_printed(1, 1.0, lr=lr, L0=L0, L1=L1) > exact
        assert bounds.ucg_relative_half(1, 1.0, lr=2 * lr, L0=L0, L1=L1) > 0


def test_a_first_trial_far_off_is_counted_and_not_overflown():
    with pytest.raises(ValueError, match="n > log2"):
        bounds.backtracking_ggnc(5, 1.0, L0=1e-300, L1=1.0, first=1e300)
    # log2(2^40/2) doublings too many.
    found = bounds.backtracking_ggnc(40, 1.0, L0=1.0, L1=0.0, first=2.0**40)
    assert found == pytest.approx(math.sqrt(4.0))


def test_the_bounds_of_backtracking_with_a_threshold():
    # A = 2 + 3 * 4 = 14; 64/28 is above 2: two steps are left out.
    options = {"rho": 3.0, "L0": 2.0, "L1": 4.0}
    found = bounds.backtracking_threshold(12, 5.0, first=64.0, **options)
    assert found == pytest.approx(math.sqrt(2 * 5 * 28 / 10) + 2 * 5 * 28 / (3 * 10))
    whole = bounds.backtracking_threshold(12, 5.0, **options)
    assert whole == bounds.backtracking_threshold(12, 5.0, first=28.0, **options)
    # min(L0, rho L1) = 2: 64/4 is 2^4.
    found = bounds.backtracking_ggnc(12, 5.0, first=64.0, **options)
    assert found == pytest.approx(math.sqrt(4 * 2 * 5 / 8) + 4 * 4 * 5 / 8)
    # Without L0 only the second term is left.
    found = bounds.backtracking_threshold(10, 5.0, rho=1e-9, L0=0.0, L1=4.0)
    assert found == pytest.approx(4 * 4 * 5 / 10, rel=1e-3)


# -- limits and relations --------------------------------------------------------------------------


def test_the_bound_of_the_natural_choice():
    """`rho = L0/L1`, `gamma = 1/(2 L0)`: `sqrt(4 L0 D/n) + 4 L1 D/n`."""
    for n, delta, L0, L1 in ((1, 1.0, 1.0, 1.0), (100, 3.0, 0.2, 7.0)):
        expected = math.sqrt(4 * L0 * delta / n) + 4 * L1 * delta / n
        found = bounds.ggnc(n, delta, gamma=1 / (2 * L0), rho=L0 / L1, L0=L0, L1=L1)
        assert found == pytest.approx(expected)
        # Backtracking from a good start has the same bound.
        assert bounds.backtracking_ggnc(n, delta, L0=L0, L1=L1, first=L0) == pytest.approx(expected)


def test_three_bounds_of_ucg_are_ordered():
    options = {"lr": 0.4, "L0": 2.0, "L1": 1.0}
    sharp = bounds.ucg_relative(50, 3.0, **options)
    assert sharp < bounds.ucg_relative_half(50, 3.0, **options)
    assert bounds.ucg_relative_half(50, 3.0, **options) < bounds.ucg_relative_printed(
        50, 3.0, **options
    )


def test_errors_by_hand():
    assert ggnc_error([4.0, 0.0], rho=3.0, zeta=2.0) == pytest.approx((2 * 3 * 2 * 2 + 8) / 2)
    assert s3cg_error([4.0, 0.0], rho=3.0, zeta=2.0, beta=0.5) == pytest.approx((18 + 8) / 2)


def test_stochastic_parameters():
    assert bounds.ggnc_stochastic_parameters(16, L0=2.0, L1=4.0) == (0.25, 0.125, 0.125)
    assert bounds.s3cg_stochastic_parameters(16, L=2.0) == (0.25, 0.125, 0.5)


def test_momentum_error_is_met_without_noise_and_by_pure_noise():
    """`d_1 = alpha g_1`: the first error is `(1 - alpha) ||g||`, which the paper takes as 0."""
    first = momentum_error(1, alpha=0.1, sigma=0.0, drift=0.0, first_gradient=5.0)
    assert first == pytest.approx(0.9 * 5.0)
    # Stationary variance of an exponential average: sigma^2 alpha/(2 - alpha).
    alpha = 0.3
    variance = sum((alpha * (1 - alpha) ** j) ** 2 for j in range(300))
    late = momentum_error(1000, alpha=alpha, sigma=2.0, drift=0.0, first_gradient=5.0)
    assert late == pytest.approx(2.0 * math.sqrt(variance))


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("n", [10**4, 10**8])
def test_stochastic_rate_with_the_a_priori_error(n, nesterov):
    """All constants put in, the bound falls by 10 from n to 10^4 n: the rate n^-1/4."""

    def bound(n):
        alpha, gamma, rho = bounds.ggnc_stochastic_parameters(n, L0=1.0, L1=1.0)
        constants = {"sigma": 1.0, "drift": gamma * rho, "first_gradient": 0.0}
        late = momentum_error(10 * n, alpha=alpha, nesterov=nesterov, **constants)
        error = ggnc_error([late**2], rho=rho, zeta=1.0)
        return bounds.ggnc_stochastic(n, 1.0, gamma=gamma, rho=rho, L=1.0, error=error)

    assert bound(10**4 * n) / bound(n) == pytest.approx(0.1, rel=0.05)
