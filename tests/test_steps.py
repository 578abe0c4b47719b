"""The rules against the problems they solve."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from normball import steps

positive = st.floats(1e-3, 1e3)


def t(x):
    return torch.tensor(x, dtype=torch.float64)


@given(positive, positive, positive)
def test_ggnc_minimises_its_model_over_the_trust_region(dual, gamma, rho):
    """Along the best direction the model is `-gamma dual s + s^2 / 2` for `s` in [0, gamma rho]."""
    lr = gamma * rho
    step = float(steps.ggnc(t(dual), lr, rho))
    grid = torch.linspace(0, lr, 2001, dtype=torch.float64)
    model = -gamma * dual * grid + grid**2 / 2
    assert -gamma * dual * step + step**2 / 2 <= float(model.min()) + 1e-9 * gamma * dual * lr
    assert 0 <= step <= lr * (1 + 1e-12)


@given(positive, positive)
def test_ggnc_between_its_limits(dual, gamma):
    small, large = 1e-9 * dual, 1e9 * dual
    assert float(steps.ggnc(t(dual), gamma * large, large)) == pytest.approx(
        float(steps.sd(t(dual), gamma)), rel=1e-12
    )
    lr = gamma * small
    assert float(steps.ggnc(t(dual), lr, small)) == float(steps.ucg(t(dual), lr)) == lr


@given(positive, positive, positive)
def test_short_step_1_minimises_the_quadratic_bound(gap, w_norm, smoothness):
    """With gamma = 1/L, rho = L: the minimiser of `-s gap + s^2 L ||w||^2 / 2` over [0, 1]."""
    step = float(steps.short_step_1(t(gap), t(w_norm), 1.0, smoothness))
    grid = torch.linspace(0, 1, 2001, dtype=torch.float64)
    bound = -grid * gap + grid**2 * smoothness * w_norm**2 / 2
    here = -step * gap + step**2 * smoothness * w_norm**2 / 2
    assert here <= float(bound.min()) + 1e-9 * gap


@given(positive, positive, positive)
def test_short_step_2_is_variant_1_at_the_diameter(gap, beta, rho):
    assert float(steps.short_step_2(t(gap), 0.5, rho, beta)) == pytest.approx(
        float(steps.short_step_1(t(gap), t(2 * beta), 0.5, rho)), rel=1e-12
    )


def test_edges():
    assert float(steps.ggnc(t(0.0), 1.0, 2.0)) == 0
    assert float(steps.ggnc(t(2.0), 0.7, 2.0)) == 0.7
    assert float(steps.cg(t(-3.0), 0.25)) == 0.25
    for gap in (-1.0, 0.0):
        assert float(steps.short_step_1(t(gap), t(1.0), 1.0, 1.0)) == 0
        assert float(steps.short_step_2(t(gap), 1.0, 1.0)) == 0
    # The corner is reached: 0/0 means stay.
    assert float(steps.short_step_1(t(0.0), t(0.0), 1.0, 1.0)) == 0
    # So near it that the square of the way is 0.
    assert float(steps.short_step_1(torch.tensor(0.0), torch.tensor(1e-23), 1.0, 1.0)) == 0
    # A threshold far below the smallest float32 still clips.
    assert float(steps.ggnc(torch.tensor(1.0), 0.1, 1e-300)) == pytest.approx(0.1)
