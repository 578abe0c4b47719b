"""What the law table does not say: blocks, products, choice by shape, refusals."""

import itertools

import pytest
import torch

from normball.norms import (
    L1,
    RMS,
    ByShape,
    Column,
    Euclidean,
    Lp,
    Nuclear,
    Product,
    Row,
    Schatten,
    Sign,
    Spectral,
    SpectralConv,
)
from normball.polar import SVD, PolarExpress


@pytest.mark.parametrize("scale", ["rms", "input", "plain"])
@pytest.mark.parametrize("shape", [(5, 4, 6), (2, 3, 6, 4)])
def test_spectral_takes_a_stack_of_matrices_as_blocks(scale, shape):
    norm = Spectral(scale, SVD())
    d = torch.randn(shape, dtype=torch.float64)
    blocks = [d[i] for i in itertools.product(*map(range, shape[:-2]))]
    lmo, dual = norm.lmo_and_dual(d)
    expected = torch.stack([norm.lmo(b) for b in blocks]).reshape(shape)
    assert torch.allclose(lmo, expected, atol=1e-12)
    assert float(dual) == pytest.approx(sum(float(norm.dual_norm(b)) for b in blocks))
    assert float(norm.norm(d)) == pytest.approx(max(float(norm.norm(b)) for b in blocks))


def test_a_kernel_is_flattened_whatever_its_memory_layout():
    norm = SpectralConv(polar=SVD())
    d = torch.randn(8, 3, 2, 5)
    expected, dual = norm.lmo_and_dual(d)
    lmo, same = norm.lmo_and_dual(d.to(memory_format=torch.channels_last))
    assert torch.allclose(lmo, expected, atol=1e-5)
    assert torch.allclose(dual, same)


def test_lmo_of_spectral_needs_no_square_or_contiguous_matrix():
    d = torch.randn(6, 9).T
    u, _, vh = torch.linalg.svd(d, full_matrices=False)
    assert torch.allclose(Spectral("plain", SVD()).lmo(d), -u @ vh, atol=1e-5)


def product():
    return Product([Spectral(polar=SVD()), RMS(), Sign()], [5.0, 2.0, 0.5])


def test_product_is_a_maximum_whose_dual_is_a_sum():
    norm, blocks = product(), [torch.randn(4, 3), torch.randn(4), torch.randn(2, 4)]
    lmo, dual = norm.lmo_and_dual(blocks)
    by_hand = sum(
        r * float(n.dual_norm(b)) for n, r, b in zip(norm.norms, norm.radii, blocks, strict=True)
    )
    assert float(dual) == pytest.approx(by_hand)
    # Table 1 and Algorithm 3, against the 1/r_l printed in section 3.1.
    assert -sum(float((d * v).sum()) for d, v in zip(blocks, lmo, strict=True)) == pytest.approx(
        by_hand, rel=1e-5
    )
    for n, r, v in zip(norm.norms, norm.radii, lmo, strict=True):
        assert float(n.norm(v)) == pytest.approx(r, rel=1e-4)
    assert float(norm.norm(lmo)) == pytest.approx(1, rel=1e-4)
    sharp = norm.sharp(blocks)
    inner = sum(float((d * s).sum()) for d, s in zip(blocks, sharp, strict=True))
    assert inner == pytest.approx(by_hand**2, rel=1e-4)


def test_product_starts_on_its_sphere():
    norm, blocks = product(), [torch.empty(4, 3), torch.empty(4), torch.empty(2, 4)]
    norm.init_(blocks, 3.0, torch.Generator().manual_seed(0))
    for n, r, w in zip(norm.norms, norm.radii, blocks, strict=True):
        assert float(n.norm(w)) == pytest.approx(3 * r, rel=1e-4)


def test_product_refusals():
    with pytest.raises(ValueError, match="at least one"):
        Product([])
    with pytest.raises(ValueError, match="2 norms but 1 radii"):
        Product([RMS(), RMS()], [1.0])
    with pytest.raises(ValueError, match=r"radius=0\.0"):
        Product([RMS()], [0])
    with pytest.raises(ValueError, match="3 norms got 1 tensors"):
        product().lmo([torch.ones(2, 2)])


@pytest.mark.parametrize(
    ("shape", "norm"),
    [((), RMS()), ((4,), RMS()), ((4, 3), Spectral()), ((4, 3, 2), SpectralConv())],
)
def test_by_shape(shape, norm):
    d = torch.randn(shape)
    assert torch.equal(ByShape().lmo(d), norm.lmo(d))
    assert torch.equal(ByShape().norm(d), norm.norm(d))


def test_spectral_starts_are_orthogonal():
    w = Spectral("plain").init_(torch.empty(6, 4), 2.0)
    assert torch.allclose(w.T @ w, 4 * torch.eye(4), atol=1e-5)
    kernel = SpectralConv("plain").init_(torch.empty(4, 3, 2, 2), 1.0).flatten(1)
    assert torch.allclose(kernel @ kernel.T, torch.eye(4), atol=1e-5)


def test_sign_starts_at_the_corners():
    w = Sign().init_(torch.empty(5, 4), 2.0)
    assert torch.equal(w.abs(), torch.full((5, 4), 0.5))
    assert w.min() < 0 < w.max()


def test_largest_singular_value_of_close_pairs():
    """The estimate comes from below, and within ln(m) / 4p, where power iteration would stall."""
    u, _ = torch.linalg.qr(torch.randn(64, 64, dtype=torch.float64))
    sigma = 1 - torch.linspace(0, 1e-3, 64, dtype=torch.float64)
    for dtype, tol in ((torch.float64, 1e-11), (torch.float32, 4e-5)):
        got = Spectral("plain").norm(((u * sigma) @ u.T).to(dtype))
        assert 1 - tol <= float(got) <= 1 + 1e-6


@pytest.mark.parametrize("norm", [Spectral(), Column(), Row(), Column(transposed=True)], ids=str)
def test_matrix_norms_refuse_vectors(norm):
    for call in (norm.norm, norm.lmo, norm.dual_norm, norm.sharp, norm.init_):
        with pytest.raises(ValueError, match=r"needs a matrix, got the shape \(3,\); use RMS"):
            call(torch.ones(3))


def test_spectral_refusals():
    with pytest.raises(ValueError, match=r"three dimensions, got the shape \(3, 2\); use Spectral"):
        SpectralConv().lmo(torch.ones(3, 2))
    with pytest.raises(ValueError, match=r"scale='imput' .* did you mean 'input'"):
        Spectral("imput")
    with pytest.raises(TypeError, match=r"normball\.polar"):
        Spectral(polar="svd")


@pytest.mark.parametrize("p", [1, float("inf"), float("nan")])
def test_powers_at_their_limits_name_the_norm_to_use(p):
    for norm, one, infinite in ((Lp, L1, Sign), (Schatten, Nuclear, Spectral)):
        uses = rf"p={p} .* use {one.__name__}\(\) for p = 1 and {infinite.__name__}\("
        with pytest.raises(ValueError, match=uses):
            norm(p)


def test_norms_are_values():
    assert Spectral() == Spectral("rms")
    assert len({Spectral(), Spectral("rms"), Spectral("plain"), Spectral(polar=SVD())}) == 3
    assert repr(Spectral(polar=PolarExpress())) == (
        "Spectral(scale='rms', polar=PolarExpress(steps=6, lower=0.002))"
    )
    with pytest.raises(AttributeError):
        Sign().normalized = False


def test_meta_tensors_flow_through():
    """No result depends on a value that the host has read."""
    norms = [Euclidean(), Sign(), Column(), Row(), Spectral(polar=PolarExpress()), RMS()]
    for norm in norms:
        d = torch.empty(6, 4, device="meta")
        lmo, dual = norm.lmo_and_dual(d)
        assert lmo.shape == d.shape
        assert dual.shape == norm.norm(d).shape == ()
