"""Blocks, Members and Transposed against one block after the other, in float64."""

import math
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from normball.norms import (
    RMS,
    Blocks,
    Column,
    Members,
    Row,
    Sign,
    Spectral,
    SpectralConv,
    Transposed,
)
from normball.polar import SVD, Polar
from tests.norms.laws import ROUNDING


def spectral(w):
    """`sigma_max / s` and `s sum sigma` of one matrix."""
    sigma, s = np.linalg.svd(w, compute_uv=False), math.sqrt(w.shape[0] / w.shape[1])
    return sigma.max() / s, s * sigma.sum()


def spectral_input(w):
    sigma, s = np.linalg.svd(w, compute_uv=False), max(1, math.sqrt(w.shape[0] / w.shape[1]))
    return sigma.max() / s, s * sigma.sum()


def conv(w):
    s = math.sqrt(w.shape[0] / w.shape[1]) / math.prod(w.shape[2:])
    sigma = np.linalg.svd(w.reshape(w.shape[0], -1), compute_uv=False)
    return sigma.max() / s, s * sigma.sum()


def rms(w):
    return math.sqrt((w**2).mean()), math.sqrt(w.size) * math.sqrt((w**2).sum())


def sign(w):
    fan_in = math.prod(w.shape[1:])
    return fan_in * np.abs(w).max(), np.abs(w).sum() / fan_in


def column(w):
    lengths = np.linalg.norm(w, axis=0)
    return lengths.max() / math.sqrt(w.shape[0]), math.sqrt(w.shape[0]) * lengths.sum()


def swap(w):
    return w.swapaxes(0, 1)


@dataclass
class Case:
    """A norm, the blocks of its tensors, as a function of an array, and the norm of each."""

    subject: Blocks | Members | Transposed
    shape: tuple[int, ...]
    cut: object
    each: object

    def __str__(self):
        return f"{self.subject} on {self.shape}"

    def norm(self, w):
        return max(self.each(block)[0] for block in self.cut(w))

    def dual(self, w):
        return sum(self.each(block)[1] for block in self.cut(w))


def rows(count):
    return lambda w: np.split(w, count, axis=0)


def columns(count):
    return lambda w: np.split(w, count, axis=1)


EXACT = Spectral(polar=SVD())
CONV = SpectralConv(polar=SVD())
CASES = [
    Case(Blocks(EXACT, 3), (12, 5), rows(3), spectral),
    Case(Blocks(EXACT, 1), (3, 5), rows(1), spectral),
    Case(Blocks(EXACT, 4, dim=1), (3, 8), columns(4), spectral),
    Case(Blocks(EXACT, 4, dim=-1), (3, 8), columns(4), spectral),
    Case(Blocks(Spectral("input", SVD()), 2), (6, 4), rows(2), spectral_input),
    # A stack of two tensors, each of three rows of blocks.
    Case(
        Blocks(EXACT, 3, dim=1),
        (2, 6, 5),
        lambda w: [block for matrix in w for block in np.split(matrix, 3)],
        spectral,
    ),
    Case(Blocks(CONV, 4), (8, 3, 2, 3), rows(4), conv),
    Case(Blocks(CONV, 6), (6, 1, 5), rows(6), conv),
    Case(Blocks(CONV, 2, dim=1), (5, 4, 3), columns(2), conv),
    Case(Blocks(RMS(), 3), (6,), rows(3), rms),
    Case(Blocks(Sign(), 2, dim=1), (3, 4), columns(2), sign),
    Case(Blocks(Column(), 2), (6, 4), rows(2), column),
    Case(Blocks(Blocks(EXACT, 2), 2, dim=1), (6, 4), lambda w: _grid(w), spectral),
    Case(Transposed(EXACT), (3, 5), lambda w: [w.T], spectral),
    Case(Transposed(Sign()), (3, 5), lambda w: [w.T], sign),
    Case(Transposed(CONV), (3, 5, 2, 2), lambda w: [swap(w)], conv),
    Case(Transposed(EXACT, dims=(1, 2)), (4, 3, 2), lambda w: [m.T for m in w], spectral),
    Case(Transposed(EXACT, dims=(-1, -2)), (4, 3, 2), lambda w: [m.T for m in w], spectral),
    Case(Transposed(Column(transposed=True)), (1, 6, 4), lambda w: list(w[0]), rms),
    # The kernel of a grouped transposed convolution, (c_in, c_out / groups, *k).
    Case(
        Transposed(Blocks(CONV, 2, dim=1)),
        (6, 4, 3),
        lambda w: [swap(group) for group in np.split(w, 2)],
        conv,
    ),
    Case(
        Blocks(Transposed(CONV), 2),
        (6, 4, 3),
        lambda w: [swap(group) for group in np.split(w, 2)],
        conv,
    ),
    Case(
        Members(Blocks(EXACT, 3)),
        (2, 6, 5),
        lambda w: [block for member in w for block in np.split(member, 3)],
        spectral,
    ),
    Case(Members(Transposed(CONV)), (2, 3, 5, 2), lambda w: [swap(x) for x in w], conv),
    Case(Members(Members(RMS())), (2, 3, 4), lambda w: list(w.reshape(6, 4)), rms),
]


def _grid(w):
    return [block for half in np.split(w, 2, axis=1) for block in np.split(half, 2, axis=0)]


cases = pytest.mark.parametrize("case", CASES, ids=str)


@cases
@given(seed=st.integers(0, 2**31), dtype=st.sampled_from(list(ROUNDING)), zero=st.booleans())
def test_laws(case, seed, dtype, zero):
    generator = torch.Generator().manual_seed(seed)
    d = torch.randn(case.shape, generator=generator, dtype=torch.float64)
    if zero:  # one block is zero where there are several
        d[: -(-case.shape[0] // 2)] = 0
    d = d.to(dtype)
    before, tol = d.clone(), ROUNDING[dtype]
    exact = d.double().numpy()
    lmo, dual = case.subject.lmo_and_dual(d)
    assert lmo.shape == d.shape
    assert lmo.dtype == d.dtype
    assert dual.shape == case.subject.norm(d).shape == ()
    assert dual.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert torch.equal(d, before)
    assert float(dual) == pytest.approx(case.dual(exact), rel=tol)
    assert float(case.subject.norm(d)) == pytest.approx(case.norm(exact), rel=tol + 4e-5)
    assert (exact * lmo.double().numpy()).sum() == pytest.approx(-float(dual), rel=4 * tol)
    assert case.norm(lmo.double().numpy()) == pytest.approx(1 if exact.any() else 0, rel=tol)
    sharp = case.subject.sharp(d).double().numpy()
    assert (sharp * exact).sum() == pytest.approx(case.dual(exact) ** 2, rel=8 * tol)


@cases
@pytest.mark.parametrize("dtype", list(ROUNDING), ids=str)
def test_init_reaches_the_sphere(case, dtype):
    w = torch.zeros(case.shape, dtype=dtype)
    assert case.subject.init_(w, 3.0) is w
    assert case.norm(w.double().numpy()) == pytest.approx(3, rel=ROUNDING[dtype])


@cases
def test_zero_nan_infinity_and_the_ends_of_the_range(case):
    for dtype in ROUNDING:
        zero = torch.zeros(case.shape, dtype=dtype)
        lmo, dual = case.subject.lmo_and_dual(zero)
        assert torch.equal(lmo, zero)
        assert float(dual) == float(case.subject.norm(zero)) == 0
        for bad in (float("nan"), float("inf")):
            broken = torch.ones(case.shape, dtype=dtype)
            broken.view(-1)[0] = bad
            lmo, dual = case.subject.lmo_and_dual(broken)
            assert dual.isnan()
            if not isinstance(case.subject, Transposed):  # whose stacks keep NaN to their matrix
                assert lmo.isnan().all()
        info = torch.finfo(dtype)
        for size in (info.max, info.smallest_normal, info.smallest_normal * info.eps):
            d = torch.full(case.shape, size, dtype=dtype)
            lmo, dual = case.subject.lmo_and_dual(d)
            assert torch.isfinite(case.subject.norm(d))
            assert torch.isfinite(dual)
            assert torch.isfinite(lmo).all()
            assert torch.isfinite(case.subject.sharp(d)).all()


@dataclass(frozen=True)
class Counting(Polar):
    """Counts its calls."""

    calls: list[tuple[int, ...]] = field(default_factory=list, hash=False, compare=False)

    def _wide(self, x):
        self.calls.append(tuple(x.shape))
        return SVD()._wide(x)


@pytest.mark.parametrize(
    ("norm", "count", "shape", "stack"),
    [
        (Spectral, 4, (8, 5), (4, 2, 5)),
        (SpectralConv, 6, (6, 2, 3), (6, 1, 6)),
        (SpectralConv, 64, (64, 1, 3, 3), (64, 1, 9)),
    ],
)
def test_the_spectral_family_is_one_batched_call(norm, count, shape, stack):
    polar = Counting()
    Blocks(norm(polar=polar), count).lmo(torch.randn(shape))
    assert polar.calls == [stack]


@pytest.mark.parametrize("of", [Spectral(), Row(), RMS()], ids=str)
@pytest.mark.parametrize("shape", [(0, 3), (4, 0)])
def test_empty_tensors(of, shape):
    for norm in (Blocks(of, 2), Transposed(of)):
        d = torch.zeros(shape)
        lmo, dual = norm.lmo_and_dual(d)
        assert lmo.shape == d.shape
        assert float(dual) == float(norm.norm(d)) == 0


def test_identity():
    assert Blocks(Spectral(), 3) == Blocks(of=Spectral(), count=3, dim=0)
    assert Blocks(Spectral(), 3) != Blocks(Spectral(), 3, 1)
    assert len({Blocks(RMS(), 2), Blocks(RMS(), 2), Transposed(RMS()), Transposed(RMS())}) == 2
    assert repr(Blocks(RMS(), 3)) == "Blocks(of=RMS(), count=3, dim=0)"
    assert repr(Transposed(RMS(), [1, 0])) == "Transposed(of=RMS(), dims=(1, 0))"


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: Blocks(Spectral, 3), TypeError, "must be given a norm, such as Spectral"),
        (lambda: Transposed("spectral"), TypeError, "of='spectral'.*must be given a norm"),
        (lambda: Members(RMS), TypeError, "must be given a norm, such as Spectral"),
        (lambda: Blocks(RMS(), 0), ValueError, "count=0 must be a whole number of at least 1"),
        (lambda: Blocks(RMS(), 1.5), ValueError, "count=1.5 must be a whole number"),
        (lambda: Blocks(RMS(), 2, 0.5), ValueError, "dim=0.5 must be a whole number"),
        (lambda: Transposed(RMS(), (0, 0)), ValueError, r"dims=\(0, 0\) must be two different"),
        (lambda: Transposed(RMS(), (0, 1, 2)), ValueError, "must be two different"),
        (lambda: Transposed(RMS(), (0, 0.5)), ValueError, "must be two different whole numbers"),
    ],
)
def test_bad_arguments(make, error, message):
    with pytest.raises(error, match=message):
        make()


@pytest.mark.parametrize(
    ("norm", "shape", "message"),
    [
        (Blocks(Spectral(), 3), (8, 4), r"dimension 0 of the shape \(8, 4\): 8 is not a multiple"),
        (Blocks(Spectral(), 3, 2), (9, 4), "cuts dimension 2, which the shape"),
        (Blocks(Spectral(), 3), (9,), "needs a matrix, got the shape"),
        (Members(RMS()), (), r"needs a first dimension that counts the members, got \(\)"),
        (Members(Spectral()), (3, 4), r"needs a matrix, got the shape \(4,\)"),
        (Blocks(SpectralConv(), 3), (9, 4), "needs a convolution kernel"),
        (
            Transposed(Spectral()),
            (9,),
            r"exchanges the dimensions \(0, 1\), which the shape \(9,\)",
        ),
        (Transposed(Blocks(RMS(), 3)), (9, 4), r"dimension 0 of the shape \(4, 9\)"),
    ],
)
def test_a_shape_that_does_not_fit_is_refused(norm, shape, message):
    w = torch.zeros(shape)
    for use in (norm.norm, norm.lmo, norm.dual_norm, norm.sharp, norm.init_):
        with pytest.raises(ValueError, match=message):
            use(w)
    with pytest.raises(ValueError, match=message):
        norm.check(w.shape)
