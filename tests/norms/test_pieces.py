"""What a norm says of its structure, which decides what sharded layers send, is true of it."""

import math

import pytest
import torch

from normball.norms import (
    L1,
    RMS,
    Blocks,
    Column,
    Euclidean,
    Lp,
    Members,
    Nuclear,
    Row,
    Schatten,
    Sign,
    Spectral,
    SpectralConv,
    Transposed,
)
from normball.polar import SVD, Eigh
from tests.norms.laws import LAWS

NORMS = [law.subject for law in LAWS] + [
    Blocks(Spectral("plain"), 2, dim=1),
    Transposed(Spectral("plain"), dims=(1, 2)),
    Members(Blocks(Spectral("plain"), 2, dim=1)),
    Members(Transposed(Column())),
    Schatten(3.0),
    Nuclear(),
]
SHAPES = [(6,), (4, 6), (3, 4, 6), (3, 2, 4, 6)]


def cases():
    for norm in dict.fromkeys(NORMS):
        for shape in SHAPES:
            try:
                norm.check(torch.Size(shape))
            except ValueError:
                continue
            yield pytest.param(norm, torch.Size(shape), id=f"{norm}-{len(shape)}d")


@pytest.mark.parametrize(("norm", "shape"), list(cases()))
def test_lines_are_what_the_norm_measures(norm, shape):
    found = norm.lines(shape)
    if found is None:
        return
    along, gain = found
    d = torch.randn(shape, dtype=torch.float64)
    lengths = d.square().sum(sorted(along), keepdim=True).sqrt() if along else d.abs()
    lmo, dual = norm.lmo_and_dual(d)
    torch.testing.assert_close(lmo, -gain * d / lengths)
    torch.testing.assert_close(dual, gain * lengths.sum())
    torch.testing.assert_close(norm.norm(d), lengths.amax() / gain)


@pytest.mark.parametrize(("norm", "shape"), list(cases()))
def test_along_free_dimensions_pieces_have_balls_of_their_own(norm, shape):
    d = torch.randn(shape, dtype=torch.float64)
    lmo, dual = norm.lmo_and_dual(d)
    for dim in norm.free(shape):
        pieces = [norm.lmo_and_dual(piece) for piece in d.split(1, dim)]
        torch.testing.assert_close(torch.cat([v for v, _ in pieces], dim), lmo)
        torch.testing.assert_close(torch.stack([x for _, x in pieces]).sum(), dual)
        largest = torch.stack([norm.norm(piece) for piece in d.split(1, dim)]).amax()
        torch.testing.assert_close(largest, norm.norm(d))


def test_stacks_of_experts_are_free_and_kernels_are_not():
    stack = torch.Size((8, 4, 6))
    assert Spectral().free(stack) == Transposed(Spectral(), (1, 2)).free(stack) == {0}
    assert Blocks(Spectral(), 2, dim=1).free(stack) == {0}
    assert Members(Spectral()).free(torch.Size((2, 8, 4, 6))) == {0, 1}
    assert Spectral().free(torch.Size((4, 6))) == SpectralConv().free(stack) == frozenset()


def test_flops_grow_as_the_factor_does():
    flops = Spectral().flops
    assert flops(torch.Size((5, 64, 64))) == 5 * flops(torch.Size((64, 64)))
    assert math.isclose(flops(torch.Size((128, 256))), 8 * flops(torch.Size((64, 128))))
    assert (
        flops(torch.Size((64, 256))) == flops(torch.Size((256, 64))) > flops(torch.Size((64, 64)))
    )
    three = 3 * flops(torch.Size((64, 64)))
    assert Blocks(Spectral(), 3).flops(torch.Size((192, 64))) == three
    assert Members(Spectral()).flops(torch.Size((3, 64, 64))) == three


@pytest.mark.parametrize(
    "norm", [Nuclear(), Schatten(3.0), Spectral(polar=SVD()), Spectral(polar=Eigh())], ids=str
)
def test_only_decompositions_wait_for_a_device(norm):
    for waits, of in ((True, norm), (False, Spectral()), (False, Sign())):
        for made in (of, Blocks(of, 2), Members(of), Transposed(of)):
            assert made.synchronises is waits, made


def test_which_norms_have_lines():
    """Those leave sharded layers where they are; without one, a layer travels to an owner."""
    shape = torch.Size((4, 6))
    for norm in (Sign(), Sign(normalized=False), Euclidean(), RMS(), Row(), Column()):
        assert norm.lines(shape) is not None, norm
        assert Members(norm).lines(torch.Size((3, 4, 6))) is not None, norm
    for norm in (Spectral(), L1(), Lp(3.0), Nuclear()):
        assert norm.lines(shape) is None, norm
        assert Members(norm).lines(torch.Size((3, 4, 6))) is None, norm
