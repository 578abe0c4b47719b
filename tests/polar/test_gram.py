"""Factors from the Gram matrix alone, as ranks that hold parts of a matrix compute them."""

import pytest
import torch

from normball.norms import ByShape, Nuclear, Spectral, SpectralConv
from normball.polar import SVD, Auto, Eigh, Half, NewtonSchulz, Nonic, PolarExpress
from tests.polar.test_polar import EPS32, EPS64, STATED, measure, spectra

CPU = torch.device("cpu")


def from_parts(polar):
    """Return what computes the factor of a matrix from three parts along its longer side."""

    def factor(x):
        wide = x.mT if x.shape[0] > x.shape[1] else x
        wide = wide / wide.abs().max()
        compute = polar.of_gram(x.dtype, x.device, x.shape)
        root, nuclear = compute(sum(part @ part.mT for part in wide.tensor_split(3, 1)))
        found = root @ wide
        return found.mT if x.shape[0] > x.shape[1] else found, nuclear * x.abs().max()

    return factor


ABLE = [row for row in STATED if row[0].of_gram(row[1], CPU, torch.Size((256, 256))) is not None]


def test_which_classes_take_a_gram_matrix(monkeypatch):
    """Those whose accuracy bears half the digits; in float64 the default is a full SVD."""
    shape = torch.Size((256, 300))
    assert [(polar, dtype) for polar, dtype, *_ in ABLE] == [
        (Eigh(), torch.float32),
        (Eigh(), torch.float64),
        (PolarExpress(), torch.float32),
        (PolarExpress(5, 5e-3), torch.float32),
        (Nonic(), torch.float32),
        (Auto(), torch.float32),
    ]
    for polar in (SVD(), Half(), PolarExpress(8, 1e-3)):
        assert polar.of_gram(torch.float32, CPU, shape) is None
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (9, 0))
    gpu = torch.device("cuda")
    assert Auto.choice(torch.float32, gpu, shape) == Half()
    gram = torch.eye(3)
    ours, nonic = (p.of_gram(torch.float32, gpu, shape)(gram.clone()) for p in (Auto(), Nonic()))
    assert torch.equal(ours[0], nonic[0])


@pytest.mark.parametrize(
    ("polar", "dtype", "short", "over", "top"),
    ABLE,
    ids=[f"{polar}-{dtype}" for polar, dtype, *_ in ABLE],
)
def test_stated_accuracy(polar, dtype, short, over, top):
    """The bounds of the class; on square and small matrices it does not use the Gram form itself.

    There rounding of the Gram matrix adds what it adds on wide ones.
    """
    low, high, sigma = measure(from_parts(polar), dtype)
    assert low >= -short
    assert high <= max(over, 5e-4 if dtype == torch.float32 else 0)
    assert sigma <= max(top, 1 + 5e-3 if dtype == torch.float32 else 0)


@pytest.mark.parametrize("polar", [Eigh(), Nonic(), PolarExpress(), NewtonSchulz()], ids=str)
def test_it_is_what_the_class_computes(polar):
    """In float64, of matrices whose condition is 30: eps, times the slope of the root, and more."""
    generator = torch.Generator().manual_seed(3)
    for m, n in [(5, 9), (40, 40), (70, 30)]:
        u, _, vh = torch.linalg.svd(
            torch.randn(m, n, generator=generator, dtype=torch.float64), full_matrices=False
        )
        x = (u * torch.linspace(1, 1 / 30, len(vh), dtype=torch.float64)) @ vh
        x = x / x.abs().max()
        wanted, nuclear = polar(x)
        found, its_nuclear = from_parts(polar)(x)
        assert torch.allclose(found, wanted, rtol=0, atol=1e-10)
        assert float(its_nuclear) == pytest.approx(float(nuclear), rel=1e-12)


@pytest.mark.parametrize("polar", [Eigh(), Nonic(), PolarExpress()], ids=str)
def test_zero_and_nan(polar):
    compute = polar.of_gram(torch.float32, CPU, torch.Size((4, 6)))
    root, nuclear = compute(torch.zeros(4, 4))
    assert root.isfinite().all()
    assert float(nuclear) == 0
    root, nuclear = compute(torch.full((4, 4), float("nan")))
    assert root.isnan().all()
    assert nuclear.isnan()


def test_where_lapack_does_not_converge(monkeypatch):
    """Products take over; they are less accurate, at 0.06 %."""

    def fails(*_, **__):
        raise torch._C._LinAlgError("did not converge")

    monkeypatch.setattr(torch.linalg, "eigh", fails)
    for _, x in spectra(96, 384):
        exact = float(torch.linalg.svdvals(x).sum())
        _, nuclear = from_parts(Eigh())(x.float())
        assert -6e-4 - 3 * EPS32 / 2e-3 <= float(nuclear) / exact - 1 <= 5e-4


@pytest.mark.parametrize(("m", "n"), [(48, 48), (48, 96)])
def test_rounding_noise_of_a_low_rank_matrix(m, n):
    """Two sums of one Gram matrix, in float64.

    They differ by `n eps`, and LAPACK errs by `m eps`, of the largest eigenvalue. The root takes
    that over the square root of the shift.
    """
    x = torch.randn(m, 3, dtype=torch.float64) @ torch.randn(3, n, dtype=torch.float64)
    x = x / x.abs().max()
    compute = Eigh().of_gram(x.dtype, CPU, x.shape)
    one, _ = compute(x @ x.mT)
    other, _ = compute(sum(part @ part.mT for part in x.tensor_split(3, 1)))
    error = float(torch.linalg.matrix_norm((one - other) @ x, 2))
    assert error <= (m + n) * EPS64 / 1e-13**0.5


def test_which_norms_have_a_polar_factor():
    matrix, stack = torch.Size((6, 3)), torch.Size((2, 6, 3))
    polar, gain = Spectral(polar=Eigh()).polar_factor(matrix)
    assert (polar, gain) == (Eigh(), pytest.approx(2**0.5))
    assert ByShape().polar_factor(matrix) == Spectral().polar_factor(matrix)
    for norm in (Spectral(), SpectralConv(), ByShape()):
        assert norm.polar_factor(stack) is None
    assert Nuclear().polar_factor(matrix) is None
    d = torch.randn(matrix, dtype=torch.float64)
    root, nuclear = polar.of_gram(d.dtype, CPU, matrix)(d.mT @ d)
    lmo, dual = Spectral().lmo_and_dual(d)
    assert torch.allclose(-gain * d @ root.mT, lmo, atol=1e-9)
    assert float(gain * nuclear) == pytest.approx(float(dual), rel=1e-9)
