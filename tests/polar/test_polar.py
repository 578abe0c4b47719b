"""The accuracy that each factor states, measured against a float64 SVD."""

import pytest
import torch

from normball.polar import (
    SVD,
    Auto,
    Eigh,
    Half,
    NewtonSchulz,
    Nonic,
    PolarExpress,
    iterative,
    products,
)
from normball.polar.products import gram, symmetric

HALF = Half()
ALL = [SVD(), Eigh(), NewtonSchulz(), PolarExpress(), Nonic(), Auto()]
SHAPES = [(256, 256), (96, 384), (384, 96), (16, 16)]


def with_spectrum(m, n, sigma, generator):
    rank = min(m, n)
    u, _ = torch.linalg.qr(torch.randn(m, rank, dtype=torch.float64, generator=generator))
    v, _ = torch.linalg.qr(torch.randn(n, rank, dtype=torch.float64, generator=generator))
    return (u * sigma) @ v.T


def spectra(m, n):
    """Yield the spectra that a momentum can have: flat, decaying, and of low rank."""
    generator = torch.Generator().manual_seed(7)
    rank = min(m, n)
    yield "gaussian", torch.randn(m, n, dtype=torch.float64, generator=generator)
    for decay in (2, 3, 4, 5, 6, 8):
        sigma = torch.logspace(0, -decay, rank, dtype=torch.float64)
        yield f"1e-{decay}", with_spectrum(m, n, sigma, generator)
    for kept in (1, rank // 2):
        sigma = (torch.arange(rank) < kept).double()
        yield f"rank {kept}", with_spectrum(m, n, sigma, generator)


def measure(polar, dtype):
    """Return the worst relative errors of nuclear norm and inner product, and the largest sigma."""
    low, high, top = 0.0, 0.0, 0.0
    # In 32 bit also by row blocks in the Gram form.
    for m, n in [*SHAPES, (300, 700)] if dtype == torch.float32 else SHAPES:
        for _, x in spectra(m, n):
            rounded = x.to(dtype)
            exact = torch.linalg.svdvals(rounded.double()).sum()
            factor, nuclear = polar(rounded)
            for value in (nuclear, (factor.double() * rounded).sum()):
                error = float(value / exact - 1)
                low, high = min(low, error), max(high, error)
            top = max(top, float(torch.linalg.svdvals(factor.double())[0]))
    return low, high, top


EPS16, EPS32, EPS64 = (
    torch.finfo(dtype).eps for dtype in (torch.float16, torch.float32, torch.float64)
)
# LAPACK's error of a decomposition of the smaller size, 256.
LAPACK = 256
# Eight steps of products with sums of 256 terms, whose roundings add up as a random walk.
WALK = 8 * 256**0.5 * EPS32


def squared(lower):
    """What rounding takes where a Gram matrix has the squares of singular values from `lower` on.

    Eigenvalues move by about `eps`, their roots by `eps / lower` in relation to the largest.
    """
    return 3 * EPS32 / lower


# polar, dtype, stated: largest shortfall, largest excess, largest singular value
STATED = [
    # What is cut is below 2e-6 of the largest singular value.
    (SVD(), torch.float32, 2e-6 + LAPACK * EPS32, LAPACK * EPS32, 1 + LAPACK * EPS32),
    (SVD(), torch.float64, LAPACK * EPS64, LAPACK * EPS64, 1 + LAPACK * EPS64),
    (Eigh(), torch.float32, 2e-3 + squared(2e-3), squared(2e-3), 1 + 3e-4),
    (Eigh(), torch.float64, 1e-6, 1e-8, 1 + 1e-8),
    # The Gram form, of the wide shapes, rounds sigma up.
    (PolarExpress(), torch.float32, 6e-4 + squared(2e-3), 5e-4, 1 + 5e-3),
    (PolarExpress(5, 5e-3), torch.float32, 2.5e-3, WALK, 1 + 1e-3),
    (Nonic(), torch.float32, 2e-3, WALK, 1 + 1e-3),
    (PolarExpress(8, 1e-3), torch.float32, 2e-4, WALK, 1 + WALK),
    # 7e-4 without rounding; the last polynomial rounds its coefficients too, where it adds them.
    (HALF, torch.float32, 7e-4 + 1.5 * EPS16, EPS16, 1 + 2 * EPS16),
    (Auto(), torch.float32, 2e-3 + squared(2e-3), squared(2e-3), 1 + 1e-3),
    (Auto(), torch.float64, LAPACK * EPS64, LAPACK * EPS64, 1 + LAPACK * EPS64),
]
NAMES = [f"{polar}-{dtype}" for polar, dtype, *_ in STATED]


@pytest.mark.parametrize(("polar", "dtype", "short", "over", "top"), STATED, ids=NAMES)
def test_stated_accuracy(polar, dtype, short, over, top):
    low, high, sigma = measure(polar, dtype)
    assert low >= -short
    assert high <= over
    assert sigma <= top


@pytest.mark.parametrize("polar", [Eigh(), Nonic(), Auto()], ids=str)
def test_more_is_missing_where_most_singular_values_are_small(polar):
    """Three quarters are below 1 % of the largest, as in momenta: not 0.2 %, as on even spectra."""
    large = torch.logspace(0, -2, 96, dtype=torch.float64)
    small = torch.logspace(-2, -3.5, 288, dtype=torch.float64)
    generator = torch.Generator().manual_seed(7)
    x = with_spectrum(384, 400, torch.cat([large, small]), generator).float()
    exact = torch.linalg.svdvals(x.double()).sum()
    assert 0.002 < 1 - float(polar(x)[1] / exact) < 0.012
    assert 1 - float(SVD()(x)[1] / exact) < 384 * torch.finfo(torch.float32).eps


@pytest.mark.parametrize("polar", [Nonic(), PolarExpress(), PolarExpress(5, 5e-3)], ids=str)
@pytest.mark.parametrize("shape", [(64, 96), (128, 400), (300, 1200), (384, 600)], ids=str)
def test_the_gram_form_keeps_its_accuracy_on_wide_shapes(polar, shape):
    for _, x in spectra(*shape):
        exact = torch.linalg.svdvals(x.float().double()).sum()
        factor, nuclear = polar(x.float())
        assert -2.5e-3 <= float(nuclear / exact - 1) <= 5e-4
        assert float(torch.linalg.svdvals(factor.double())[0]) <= 1 + 5e-3


def test_the_choice_of_a_default(monkeypatch):
    def name(dtype, device, *shape):
        return Auto.choice(dtype, torch.device(device), torch.Size(shape))

    single, double = torch.float32, torch.float64
    assert name(single, "cpu", 129, 200) == Eigh()
    assert name(single, "cpu", 7, 200, 128) == Nonic()
    assert name(double, "cpu", 99, 99) == SVD()
    assert name(double, "cuda", 99, 99) == PolarExpress(20, 1e-6)
    assert name(single, "mps", 99, 99) == Nonic()
    assert name(single, "cuda", 99, 99) == Nonic()  # no GPU here
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for capability, large in (((6, 1), Nonic()), ((7, 0), HALF), ((9, 0), HALF)):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _, c=capability: c)
        assert name(single, "cuda", 12, 768, 768) == large
        assert name(single, "cuda", 64, 99) == large
        assert name(single, "cuda", 5, 99, 16) == Nonic()


@pytest.mark.parametrize(
    ("dtype", "size", "cutoff"),
    [
        (torch.float32, 4, 16 * EPS32),
        (torch.float32, 200, 2e-6),
        (torch.float64, 4, 16 * EPS64),
        (torch.float64, 200, 200 * EPS64),
    ],
)
def test_svd_leaves_out_what_is_below_its_cutoff(dtype, size, cutoff):
    """Of a diagonal matrix LAPACK finds the singular values to the last digit."""
    for s, kept in ((0.98 * cutoff, 0), (1.02 * cutoff, 1)):
        x = torch.zeros(4, size, dtype=dtype)
        x[0, 0], x[1, 1] = 1, s
        factor, nuclear = SVD()(x)
        assert factor.diagonal()[:2].tolist() == pytest.approx([1, kept])
        assert float(nuclear) == pytest.approx(1 + kept * s, rel=4 * torch.finfo(dtype).eps)


@pytest.mark.parametrize("shift", [1e-4, 0.5])
def test_eigh_damps_singular_values_as_it_says(shift):
    """To `s / sqrt(s^2 + shift)`, with 1 for the largest; the root of a diagonal is a diagonal."""
    s = torch.tensor([1.0, 0.5, 0.02, 0.0], dtype=torch.float64)
    expected = s / (s.square() + shift).sqrt()
    factor, nuclear = Eigh(shift)(torch.diag(s).float())
    rounding = 8 * EPS32 / shift**0.5
    assert torch.allclose(factor.double(), torch.diag(expected), rtol=0, atol=rounding)
    assert float(nuclear) == pytest.approx(float(s @ expected), rel=rounding)


def test_newton_schulz_is_as_inaccurate_as_it_says():
    low, high, sigma = measure(NewtonSchulz(), torch.float32)
    assert -0.35 < low < -0.2
    assert high < 0.1
    assert 1.15 < sigma < 1.25


@pytest.mark.parametrize("polar", ALL, ids=str)
@pytest.mark.parametrize("shape", [(5, 4, 6), (2, 3, 6, 4), (3, 5, 5)], ids=str)
def test_a_batch_is_its_matrices(polar, shape):
    x = torch.randn(shape)
    x[..., 0, :, :] = 0
    factor, nuclear = polar(x)
    for index in torch.cartesian_prod(*(torch.arange(n) for n in shape[:-2])).reshape(
        -1, len(shape) - 2
    ):
        alone, alone_nuclear = polar(x[tuple(index)])
        assert torch.allclose(factor[tuple(index)], alone, atol=1e-4)
        assert torch.allclose(nuclear[tuple(index)], alone_nuclear, rtol=1e-4)


@pytest.mark.parametrize("polar", ALL, ids=str)
def test_one_bad_matrix_leaves_its_neighbours_alone(polar):
    x = torch.randn(3, 4, 6)
    clean, clean_nuclear = polar(x)
    x[1, 2, 3] = float("nan")
    factor, nuclear = polar(x)
    assert factor[1].isnan().all()
    assert nuclear[1].isnan()
    for i in (0, 2):
        assert torch.equal(factor[i], clean[i])
        assert torch.equal(nuclear[i], clean_nuclear[i])


@pytest.mark.parametrize("polar", [SVD(), Eigh()], ids=str)
def test_a_decomposition_that_fails_is_replaced_for_its_matrix_alone(polar, monkeypatch):
    name = "svd" if isinstance(polar, SVD) else "eigh"
    genuine = getattr(torch.linalg, name)
    x = torch.randn(3, 4, 6)
    clean, _ = polar(x)
    # As LAPACK does for a batch with one matrix on which it does not converge.
    poison = x[1] / x[1].abs().max()
    poison = poison if name == "svd" else poison @ poison.mT

    def fails(a, **kwargs):
        for matrix in a.reshape(-1, *a.shape[-2:]):
            if torch.allclose(matrix, poison, atol=1e-3):
                raise torch._C._LinAlgError("did not converge")
        return genuine(a, **kwargs)

    monkeypatch.setattr(torch.linalg, name, fails)
    factor, nuclear = polar(x)
    assert torch.allclose(factor[[0, 2]], clean[[0, 2]], atol=1e-6)
    u, s, vh = (
        torch.linalg.svd(x[1], full_matrices=False)
        if name == "eigh"
        else genuine(x[1], full_matrices=False)
    )
    assert torch.allclose(factor[1], u @ vh, atol=1e-3)
    assert torch.allclose(nuclear[1], s.sum(), rtol=1e-4)


@pytest.mark.parametrize("polar", [SVD(), Eigh(), Auto()], ids=str)
@pytest.mark.parametrize("shape", [(8, 8), (108, 90), (33, 196), (200, 200), (96, 768)], ids=str)
def test_equal_rows_have_one_direction(polar, shape):
    """As in the gradient of outputs that all count alike: the noise grows with the size."""
    generator = torch.Generator().manual_seed(2)
    for _ in range(5):
        row = torch.randn(shape[1], generator=generator, dtype=torch.float64)
        factor, nuclear = polar(row.expand(shape))
        length = row.norm() * shape[0] ** 0.5
        assert (factor - row / length).norm() < 1e-6
        assert float(nuclear) == pytest.approx(float(length), rel=1e-6)


@pytest.mark.parametrize("polar", ALL, ids=str)
def test_rounding_noise_of_a_low_rank_matrix_decides_nothing(polar):
    """Two computations of one rank-deficient matrix, alike up to rounding, agree."""
    a, b = torch.randn(64, 4), torch.randn(4, 48)
    x = a @ b
    y = (a.double() @ b.double()).float()
    assert not torch.equal(x, y)
    (fx, _), (fy, _) = polar(x), polar(y)
    limit = 2e-2 if isinstance(polar, Eigh | PolarExpress | Auto) else 0.2
    assert float(torch.linalg.matrix_norm(fx - fy, 2)) < (1e-4 if polar == SVD() else limit)


def test_more_steps_are_more_accurate():
    errors = [-measure(PolarExpress(k, 1e-3), torch.float64)[0] for k in (4, 6, 8)]
    assert errors[0] > errors[1] > errors[2]


@pytest.mark.parametrize("polar", [Eigh(), PolarExpress(), HALF], ids=str)
@pytest.mark.parametrize("shape", [(3, 130, 200), (2, 2, 70, 140), (2, 200, 130)], ids=str)
def test_a_batch_of_larger_matrices_is_its_matrices(polar, shape):
    """Above a size they are taken one by one, below it together; also in the Gram form."""
    x = torch.randn(shape)
    x[-1, ..., 0, 0] = float("nan")
    x[0] = 0
    factor, nuclear = polar(x)
    assert factor.shape == shape
    assert nuclear.shape == shape[:-2]
    for index in torch.cartesian_prod(*(torch.arange(n) for n in shape[:-2])).reshape(
        -1, len(shape) - 2
    ):
        alone, alone_nuclear = polar(x[tuple(index)])
        atol = 2e-2 if polar is HALF else 1e-4
        assert torch.allclose(factor[tuple(index)], alone, atol=atol, equal_nan=True)
        assert torch.allclose(nuclear[tuple(index)], alone_nuclear, rtol=1e-2, equal_nan=True)
    assert not factor[0].any()
    assert factor[-1].isnan().any()


@pytest.mark.parametrize("polar", ALL, ids=str)
@pytest.mark.parametrize("scale", [1e-44, 1e-30, 1e30, 3e38])
def test_the_whole_range_of_float32(polar, scale):
    x = torch.rand(80, 160)
    x = x / x.max() * scale
    factor, nuclear = polar(x)
    assert factor.isfinite().all()
    assert nuclear.isfinite()
    assert float(torch.linalg.matrix_norm(factor.double(), 2)) < 1.25
    assert float(nuclear) > 0.5 * min(float(torch.linalg.svdvals(x.double()).sum()), 3.4e38)


def test_symmetric_products():
    """By row blocks from 256 on, whatever the remainder."""
    for m in (1, 255, 256, 257, 514):
        a = torch.randn(m, 40, dtype=torch.float64)
        assert torch.allclose(gram(a), a @ a.T, rtol=1e-12, atol=1e-12)
        one, power = gram(a), gram(a) @ gram(a)
        assert torch.allclose(symmetric(one, power), one @ power, rtol=1e-12)
    product, rows = gram(torch.randn(300, 50)), products._ROWS
    for low in range(rows, 300, rows):
        assert torch.equal(product[low : low + rows, :low].T, product[:low, low : low + rows])
    # On the diagonal some kernels sum the 50 terms of the two halves in another order.
    atol = 2 * 50**0.5 * EPS32 * float(product.diagonal().max())
    assert torch.allclose(product, product.T, rtol=0, atol=atol)


@pytest.mark.parametrize("spread", [0, 2, 4])
def test_the_gram_form_is_the_iteration(spread):
    """Measured anew at every step, it stays with the plain iteration in float64."""
    x = with_spectrum(96, 384, torch.logspace(0, -spread, 96).double(), torch.Generator())
    for polar in (PolarExpress(), PolarExpress(5, 5e-3), Nonic()):
        expected = torch.linalg.svd(x, full_matrices=False)
        sigma = expected.S / expected.S.pow(8).sum() ** (1 / 8)
        for odd in polar._odds:
            sigma = sum(c * sigma ** (2 * i + 1) for i, c in enumerate(odd))
        factor, _ = polar(x.float())
        error = factor.double() - (expected.U * sigma) @ expected.Vh
        assert float(torch.linalg.matrix_norm(error, 2)) < 2e-2


@pytest.mark.parametrize("polar", [NewtonSchulz(1), PolarExpress(1, 0.5), Nonic(1, 0.5)], ids=str)
def test_one_step_is_one_polynomial(polar):
    """Of the identity, whose singular values are `1 / length`, of the two norms that bound them."""
    if isinstance(polar, NewtonSchulz):
        odd, s = iterative.MUON, 3.0**-0.5
    else:
        odd, s = polar._odds[0], 3.0 ** (-1 / 8)
    expected = sum(c * s ** (2 * i + 1) for i, c in enumerate(odd))
    factor, nuclear = polar(torch.eye(3, dtype=torch.float64))
    assert torch.allclose(factor, expected * torch.eye(3, dtype=torch.float64), atol=1e-14)
    assert float(nuclear) == pytest.approx(3 * expected, rel=1e-14)


def test_refusals():
    with pytest.raises(ValueError, match="steps=0"):
        NewtonSchulz(steps=0)
    with pytest.raises(ValueError, match="steps=0"):
        Nonic(steps=0)
    with pytest.raises(ValueError, match="steps=0"):
        PolarExpress(steps=0)
    with pytest.raises(ValueError, match=r"lower=0 must lie in .* default is 0\.004"):
        Nonic(lower=0)
    with pytest.raises(ValueError, match=r"steps=2\.5"):
        PolarExpress(steps=2.5)
    with pytest.raises(ValueError, match="lower=1"):
        PolarExpress(lower=1.0)
    for shift in (0, 1):
        with pytest.raises(ValueError, match=f"shift={shift}"):
            Eigh(shift=shift)
    with pytest.raises(ValueError, match=r"a matrix, got the shape \(3,\)"):
        SVD()(torch.ones(3))


@pytest.mark.parametrize("shape", [(64, 96), (96, 64), (3, 64, 64)], ids=str)
@pytest.mark.parametrize("exponent", [-126, -60, 60, 124])
def test_half_takes_entries_of_any_size(shape, exponent):
    """Float16 ends at 65504, float32 at 3.4e38: the factor does not depend on the scale."""
    x = torch.randn(shape, generator=torch.Generator().manual_seed(3))
    factor, nuclear = HALF(x)
    scaled, more = HALF(x * 2.0**exponent)
    # Far from 1 a bound is the scale, and so entries are rounded in another place.
    assert torch.allclose(scaled, factor, atol=3e-2)
    expected = (nuclear.double() * 2.0**exponent).clamp(max=torch.finfo(torch.float32).max)
    assert torch.allclose(more.double(), expected, rtol=2e-3)


def test_half_keeps_zeros_and_bad_matrices_apart():
    x = torch.randn(3, 64, 80)
    clean, _ = HALF(x)
    x[0] = 0
    x[2, 5, 7] = float("inf")
    factor, nuclear = HALF(x)
    assert HALF(x[1] * 2.0**-146)[0].isfinite().all()  # of four bits an entry
    assert not factor[0].any()
    assert nuclear[0] == 0
    assert torch.equal(factor[1], clean[1])
    assert factor[2].isnan().all()
    assert nuclear[2].isnan()
