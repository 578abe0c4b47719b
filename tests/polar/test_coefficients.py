"""The polynomials of the iterations, against what makes a polynomial the best one."""

import math

import pytest
import torch

from normball.polar import iterative, polar_express_coefficients


def test_coefficients_are_the_best_quintics():
    """Each is optimal on its interval: the error takes its largest value four times, alternating.

    And no nearby quintic does better on a fine grid.
    """
    low, high = 1e-3, 1.0
    for quintic in polar_express_coefficients(7, 1e-3)[:-1]:
        s = torch.linspace(low, high * 1.001, 200_001, dtype=torch.float64)

        def error(c, s=s):
            return float((1 - (c[0] * s + c[1] * s**3 + c[2] * s**5)).abs().max())

        best = error(quintic)
        for i in range(3):
            for factor in (1 - 1e-4, 1 + 1e-4):
                worse = list(quintic)
                worse[i] *= factor
                assert error(worse) > best
        low, high = 1 - best, 1 + best


@pytest.mark.parametrize("low", [1e-6, 1e-4, 4e-3, 0.1, 0.5, 0.9])
@pytest.mark.parametrize("count", [3, 5])
def test_the_best_polynomials_alternate(low, count):
    """Chebyshev: one of n terms is best if its error is largest n + 1 times, with turning signs."""
    odd, error = iterative._best_odd(count, low, 1.0)
    s = torch.cat([torch.logspace(math.log10(low), 0, 100_001), torch.linspace(low, 1, 100_001)])
    s = s.double().clamp(low, 1).sort().values
    residual = 1 - sum(c * s ** (2 * i + 1) for i, c in enumerate(odd))
    assert float(residual.abs().max()) == pytest.approx(error, rel=1e-6)
    extreme = residual[residual.abs() > error * (1 - 1e-4)].sign()
    assert int((extreme.diff() != 0).sum()) == count


def test_a_vanishing_interval_has_the_flattest_polynomial():
    for count in (3, 5):
        odd, error = iterative._best_odd(count, 1 - 1e-9, 1 + 1e-9)
        assert error == 0
        s = torch.tensor(1.0, dtype=torch.float64, requires_grad=True)
        value = sum(c * s ** (2 * i + 1) for i, c in enumerate(odd))
        assert float(value.detach()) == pytest.approx(1, abs=1e-12)
        for _ in range(count - 1):
            (value,) = torch.autograd.grad(value, s, create_graph=True)
            assert float(value.detach()) == pytest.approx(0, abs=1e-8)
