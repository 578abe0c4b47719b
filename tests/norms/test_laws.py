"""Every norm of the table obeys the laws of a norm, its dual and its minimiser."""

import cvxpy as cp
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.norms.laws import LAWS, ROUNDING

# Powers of ten at which random tensors stay normal numbers, entries and sums alike.
EXPONENTS = {
    torch.float64: (-290, 290),
    torch.float32: (-34, 35),
    torch.bfloat16: (-34, 35),
    torch.float16: (-3, 3),
}


@st.composite
def tensors(draw, law):
    dtype = draw(st.sampled_from(list(ROUNDING)))
    ndim = draw(st.sampled_from(law.ndims))
    shape = draw(st.lists(st.integers(1, 6), min_size=ndim, max_size=ndim))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    x = torch.randn(shape, generator=generator, dtype=torch.float64)
    kind = draw(st.sampled_from(["dense", "sparse", "equal"]))
    if kind == "sparse":
        x = x * (torch.rand(shape, generator=generator) < 0.4)
    if kind == "equal":
        x = torch.ones_like(x)
    return (x * 10.0 ** draw(st.integers(*EXPONENTS[dtype]))).to(dtype)


def scaled(x: torch.Tensor) -> tuple[np.ndarray, float]:
    """Return float64 values with largest entry 1, and what to multiply by."""
    x = x.double()
    largest = float(x.abs().max())
    return (x / largest).numpy() if largest else x.numpy(), largest or 1.0


@pytest.mark.parametrize("law", LAWS, ids=str)
@given(data=st.data())
def test_dual_norm_and_minimiser(law, data):
    d = data.draw(tensors(law))
    before, tol = d.clone(), ROUNDING[d.dtype]
    lmo, dual = law.subject.lmo_and_dual(d)
    unit, size = scaled(d)
    exact = law.dual(unit)

    assert lmo.shape == d.shape
    assert lmo.dtype == d.dtype
    assert dual.shape == ()
    assert torch.equal(d, before)
    assert torch.equal(lmo, law.subject.lmo(d))
    assert torch.equal(dual, law.subject.dual_norm(d))
    assert torch.isfinite(lmo).all()
    # The dual norm is the oracle's, short of it by at most the stated loss.
    assert (1 - law.loss) * exact * (1 - tol) <= float(dual) / size
    assert float(dual) / size <= exact * (1 + law.loss) * (1 + tol)
    # <d, lmo(d)> is minus what is called the dual norm.
    product = (unit * lmo.double().numpy()).sum()
    assert product == pytest.approx(-float(dual) / size, rel=4 * tol + law.excess)
    # The minimiser lies on the sphere.
    length = law.norm(lmo.double().numpy())
    if exact == 0:
        assert length == 0
    else:
        assert length <= (1 + law.excess) * (1 + tol)
        assert length >= (1 - max(law.loss, law.excess)) * (1 - tol)


@pytest.mark.parametrize("law", LAWS, ids=str)
@given(data=st.data())
def test_norm(law, data):
    w = data.draw(tensors(law))
    before = w.clone()
    got = law.subject.norm(w)
    unit, size = scaled(w)
    assert got.shape == ()
    assert torch.equal(w, before)
    assert float(got) / size == pytest.approx(law.norm(unit), rel=ROUNDING[w.dtype] + 4e-5)


@pytest.mark.parametrize("law", [x for x in LAWS if not x.excess], ids=str)
@given(data=st.data())
def test_sharp(law, data):
    ndim = data.draw(st.sampled_from(law.ndims))
    shape = data.draw(st.lists(st.integers(1, 6), min_size=ndim, max_size=ndim))
    d = torch.randn(shape, dtype=torch.float64)
    sharp = law.subject.sharp(d)
    dual = law.dual(d.numpy())
    tol = 2 * law.loss + 1e-9
    assert float((d * sharp).sum()) == pytest.approx(dual**2, rel=tol)
    assert law.norm(sharp.numpy()) == pytest.approx(dual, rel=tol)


@pytest.mark.parametrize("law", [x for x in LAWS if x.ball and not x.loss], ids=str)
@pytest.mark.parametrize("seed", range(2))
def test_dual_norm_is_the_maximum_over_the_ball(law, seed):
    """A conic solver, which knows the norm alone, finds the same maximum."""
    generator = torch.Generator().manual_seed(seed)
    ndim = max(n for n in law.ndims if n < 5)
    shape = (3, 2, 2, 1)[:ndim]
    d = torch.randn(shape, generator=generator, dtype=torch.float64)
    matrix = d.numpy().reshape(shape[0], -1)
    x = cp.Variable(matrix.shape)
    problem = cp.Problem(cp.Maximize(cp.vdot(matrix, x)), [law.ball(x, shape) <= 1])
    best = problem.solve(solver=cp.CLARABEL)
    assert float(law.subject.dual_norm(d)) == pytest.approx(best, rel=1e-6)
    # And the solver's point is no better than ours.
    assert float(-(d * law.subject.lmo(d)).sum()) == pytest.approx(best, rel=1e-6)


@pytest.mark.parametrize("law", LAWS, ids=str)
@pytest.mark.parametrize("dtype", list(ROUNDING), ids=str)
def test_init_reaches_the_sphere(law, dtype):
    ndim = max(law.ndims)
    w = torch.zeros((4, 3, 2, 2, 2)[:ndim], dtype=dtype)
    generator = torch.Generator().manual_seed(1)
    assert law.subject.init_(w, 3.0, generator) is w
    assert law.norm(w.double().numpy()) == pytest.approx(3, rel=ROUNDING[dtype])
    again = torch.zeros_like(w)
    law.subject.init_(again, 3.0, torch.Generator().manual_seed(1))
    assert torch.equal(w, again)
    with pytest.raises(ValueError, match="radius=-1"):
        law.subject.init_(w, -1)


@pytest.mark.parametrize("law", LAWS, ids=str)
def test_zero_nan_and_infinity(law):
    shape = (4, 3, 2, 2, 2)[: max(law.ndims)]
    for dtype in ROUNDING:
        zero = torch.zeros(shape, dtype=dtype)
        assert torch.equal(law.subject.lmo(zero), zero)
        assert float(law.subject.dual_norm(zero)) == 0
        assert float(law.subject.norm(zero)) == 0
        assert torch.equal(law.subject.sharp(zero), zero)
        for bad in (float("nan"), float("inf")):
            broken = torch.ones(shape, dtype=dtype)
            broken.view(-1)[-1] = bad
            lmo, dual = law.subject.lmo_and_dual(broken)
            assert dual.isnan(), dual
            block = lmo[-1] if law.ndims == (2, 3) else lmo
            assert block.isnan().all()


@pytest.mark.parametrize("law", LAWS, ids=str)
def test_the_ends_of_the_range_stay_finite(law):
    shape = (4, 3, 2, 2, 2)[: max(law.ndims)]
    signs = torch.where(torch.rand(shape) < 0.5, -1.0, 1.0)
    for dtype in ROUNDING:
        info = torch.finfo(dtype)
        # The smallest number is subnormal.
        for size in (info.max, info.smallest_normal, info.smallest_normal * info.eps):
            d = signs.to(dtype) * size
            assert torch.isfinite(law.subject.norm(d))
            lmo, dual = law.subject.lmo_and_dual(d)
            assert torch.isfinite(dual)
            unit = law.subject.lmo(signs.to(dtype))
            assert torch.allclose(lmo, unit, rtol=0.02, atol=1e-5 * float(unit.abs().max()))
            assert torch.isfinite(law.subject.sharp(d)).all()


@pytest.mark.parametrize("law", LAWS, ids=str)
def test_empty_tensors(law):
    d = torch.zeros((0, 3, 2, 2, 2)[: max(law.ndims)])
    lmo, dual = law.subject.lmo_and_dual(d)
    assert lmo.shape == d.shape
    assert float(dual) == 0
    assert float(law.subject.norm(d)) == 0


@pytest.mark.parametrize("law", LAWS, ids=str)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_a_stack_is_its_tensors(law, dtype):
    """Each has its own ball; the dual norms add up, the norm is the largest."""
    d = torch.randn((3, *(4, 3, 2, 2, 2)[: max(law.ndims)]), dtype=torch.float64).to(dtype)
    d[1] = 0
    d[2] *= 100
    lmo, total = law.subject.stacked_lmo_and_dual(d)
    alone = [law.subject.lmo_and_dual(x) for x in d]
    tol = ROUNDING[dtype] + law.excess
    assert lmo.dtype == dtype
    for x, (y, _) in zip(lmo, alone, strict=True):
        assert torch.allclose(x, y, rtol=tol, atol=tol * max(float(y.abs().max()), 1e-3))
    assert float(total) == pytest.approx(sum(float(dual) for _, dual in alone), rel=tol)
    norms = [float(law.subject.norm(x)) for x in d]
    assert float(law.subject.stacked_norm(d)) == pytest.approx(max(norms), rel=tol)
