"""Minimisers written to memory that is there already."""

import pytest
import torch

from normball.norms import Sign
from tests.norms.test_pieces import cases


@pytest.mark.parametrize(("norm", "shape"), list(cases()))
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_the_minimiser_goes_where_it_is_wanted(norm, shape, dtype):
    d = torch.randn(shape).to(dtype)
    before, out = d.clone(), torch.full_like(d, float("nan"))
    lmo, dual = norm.lmo_and_dual(d)
    found, its_dual = norm.lmo_and_dual_into(d, out)
    assert found.data_ptr() == out.data_ptr()
    assert torch.equal(found, lmo)
    assert torch.equal(its_dual, dual)
    assert torch.equal(d, before)


# More entries than a piece has, and a rest; 1e30 and 1e-42 leave no room for a plain sum.
@pytest.mark.parametrize("scale", [1e-42, 1.0, 1e30])
@pytest.mark.parametrize("transposed", [False, True])
def test_a_large_sign_step_follows_float64(scale, transposed):
    d = torch.randn(1003, 1100) * scale
    d = d.T if transposed else d
    lmo, dual = Sign().lmo_and_dual(d)
    exact = d.double()
    torch.testing.assert_close(lmo.double(), -exact.sign() / d.shape[1], rtol=1e-6, atol=0)
    torch.testing.assert_close(dual.double(), exact.abs().sum() / d.shape[1], rtol=2e-6, atol=3e-45)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_a_bad_entry_of_a_large_tensor_is_seen(bad):
    d = torch.randn(600, 600)
    d[599, 599] = bad
    lmo, dual = Sign().lmo_and_dual_into(d, torch.empty_like(d))
    assert lmo.isnan().all()
    assert dual.isnan()
