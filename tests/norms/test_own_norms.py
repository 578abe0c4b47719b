"""A norm of one's own: `check_norm` finds what is wrong, checkpoints know it again."""

import copy
import hashlib
import math
import struct
from dataclasses import dataclass

import pytest
import torch
from torch import nn

from normball import ClippedScion
from normball.norms import (
    L1,
    RMS,
    Blocks,
    ByShape,
    Column,
    Euclidean,
    Lp,
    Members,
    Norm,
    Nuclear,
    Row,
    Schatten,
    Sign,
    Spectral,
    SpectralConv,
    Transposed,
    check_norm,
)
from normball.polar import SVD

BUILT_IN = [
    *[(norm, shape) for norm in (Euclidean(), RMS(), L1(), Lp(3.0), Sign(normalized=False))
      for shape in ((), (5,), (3, 4), (2, 3, 2))],
    *[(norm, (4, 6)) for norm in (
        Sign(), Spectral(polar=SVD()), Nuclear(), Schatten(3.0), Column(), Column(transposed=True),
        Row(), ByShape(), Transposed(Spectral(polar=SVD())), Blocks(Spectral(polar=SVD()), 2),
        Members(RMS()), Members(Euclidean()))],
    (SpectralConv(polar=SVD()), (3, 2, 2, 2)),
    (Members(Spectral(polar=SVD())), (2, 3, 4)),
    (Members(RMS()), (3,)),
    (Members(ByShape()), (2, 3, 2, 2)),
]  # fmt: skip


@pytest.mark.parametrize(("norm", "shape"), BUILT_IN, ids=str)
def test_the_norms_of_the_package_keep_the_laws(norm, shape):
    check_norm(norm, shape, tol=1e-6 if "Auto" not in repr(norm) else 3e-3)


class Weighted(Norm):
    """`||w|| = max_i |w_i| / a_i`; its dual is `sum_i a_i |d_i|`."""

    def __init__(self, a):
        self.a = a

    def check(self, shape):
        if shape != self.a.shape:
            raise ValueError(f"{self!r} needs the shape {tuple(self.a.shape)}, got {tuple(shape)}")

    def norm(self, w):
        return (w.abs() / self.a.to(w.dtype)).amax()

    def lmo_and_dual(self, d):
        a = self.a.to(d.dtype)
        return -a * d.sign(), (a * d.abs()).sum()


WEIGHTS = torch.tensor([1.0, 2.0, 0.5])


def test_a_norm_with_plain_attributes_keeps_the_laws():
    check_norm(Weighted(WEIGHTS), (3,))


@dataclass(frozen=True)
class Broken(Norm):
    what: str

    def norm(self, w):
        if self.what == "norm":
            return w.square().sum()
        if self.what == "triangle":  # with the minimiser of L1, whose ball is the hull of this one
            return w.abs().sqrt().sum().square()
        if self.what == "norm of zero":
            return w.norm() + 1
        return w.norm() if self.what != "scale" else 2 * w.norm()

    def lmo_and_dual(self, d):
        length = d.norm()
        unit = d / torch.where(length == 0, 1, length)
        if self.what == "zero":
            return -d / length, length
        if self.what == "sign":
            return unit, length
        if self.what == "dual":
            return -unit, 1.1 * length
        if self.what == "dual of zero":
            return -unit, length + 1
        if self.what == "shape":
            return -unit, length.view(1)
        if self.what == "in place":
            return d.neg_().div_(torch.where(length == 0, 1, length)), length
        if self.what in ("too small", "triangle"):
            return L1().lmo_and_dual(d)
        return -unit, length

    def lmo(self, d):
        return super().lmo(d) * (-1 if self.what == "lmo" else 1)

    def dual_norm(self, d):
        return super().dual_norm(d) ** (2 if self.what == "dual_norm" else 1)

    def stacked_norm(self, w):
        return super().stacked_norm(w) if self.what != "stack" else w.norm()

    def stacked_lmo_and_dual(self, d):
        lmo, total = super().stacked_lmo_and_dual(d)
        return lmo, total / (len(d) if self.what == "mean of a stack" else 1)

    def _onto_sphere(self, noise):
        return super()._onto_sphere(noise) if self.what != "sphere" else noise

    def __deepcopy__(self, memo):
        return Broken("another") if self.what == "copy" else self


@pytest.mark.parametrize(
    ("what", "law"),
    [
        ("norm", r"norm\(-2 x\) = 2 norm\(x\)"),
        ("scale", r"norm\(lmo\(d\)\) = 1"),
        ("zero", r"lmo\(0\) = 0"),
        ("sign", r"<d, lmo\(d\)> = -dual_norm\(d\)"),
        ("dual", r"<d, lmo\(d\)> = -dual_norm\(d\)"),
        ("in place", "leaves d as it is"),
        ("stack", "stacked_norm is the largest norm"),
        ("sphere", r"norm\(init_\(w, 3\)\) = 3"),
        ("dual of zero", r"dual_norm\(0\) = 0"),
        ("norm of zero", r"norm\(0\) = 0"),
        ("shape", r"dual_norm\(0\) = 0 \(shapes\)"),
        ("too small", r"\|<d, x>\| <= dual_norm\(d\) norm\(x\)"),
        ("triangle", r"norm\(d \+ x\) <= norm\(d\) \+ norm\(x\)"),
        ("lmo", r"<d, lmo\(-2 d\)> = dual_norm\(d\)"),
        ("dual_norm", r"dual_norm\(-2 d\) = 2 dual_norm\(d\)"),
        ("mean of a stack", "stacked_lmo_and_dual adds up the dual norms"),
        ("copy", "a copy is equal, with the same hash"),
    ],
)
def test_a_broken_law_is_named(what, law):
    with pytest.raises(ValueError, match=f"{law}.* does not hold"):
        check_norm(Broken(what), (4,))


def test_the_tolerance_is_relative_to_the_larger_side():
    """1.1 and 1 differ by a tenth of 1 and by an eleventh of 1.1."""
    check_norm(Broken("dual"), (4,), tol=1.01 / 11)
    with pytest.raises(ValueError, match="dual_norm"):
        check_norm(Broken("dual"), (4,), tol=0.99 / 11)


def test_what_is_no_norm():
    with pytest.raises(TypeError, match="derived from Norm"):
        check_norm(nn.Linear(2, 2), (2,))
    with pytest.raises(ValueError, match=r"needs the shape \(3,\)"):
        check_norm(Weighted(WEIGHTS), (4,))


def test_equality_is_that_of_the_attributes():
    norm = Weighted(WEIGHTS)
    assert norm == Weighted(WEIGHTS.clone()) == copy.deepcopy(norm)
    assert hash(norm) == hash(Weighted(WEIGHTS.clone()))
    assert norm != Weighted(WEIGHTS + torch.tensor([0.0, 0.0, 1e-7]))
    assert norm != Broken("scale")
    large = torch.ones(5000)
    other = large.clone()
    other[2500] = 2.0  # where repr() of a tensor would show dots
    assert Weighted(large) != Weighted(other)


def test_a_tensor_is_named_by_its_values_as_checkpoints_of_all_versions_do():
    digest = hashlib.sha256(struct.pack("<3f", 1.0, 2.0, 0.5)).hexdigest()[:16]
    assert repr(Weighted(WEIGHTS)) == f"Weighted(a=<tensor (3,), torch.float32, {digest}>)"


def test_a_run_with_a_norm_of_ones_own_resumes():
    def build():
        p = nn.Parameter(torch.ones(3))
        return p, ClippedScion([{"params": [p], "norm": Weighted(WEIGHTS)}], 0.1, rho=1.0)

    def train(p, optimizer, steps):
        for step in steps:
            p.grad = torch.tensor([1.0, -2.0, math.sin(step)])
            optimizer.step()

    p, optimizer = build()
    train(p, optimizer, range(3))
    q, other = build()
    q.data.copy_(p)
    other.load_state_dict(optimizer.state_dict())
    train(p, optimizer, range(3, 6))
    train(q, other, range(3, 6))
    assert torch.equal(p, q)
    r = nn.Parameter(torch.ones(3))
    third = ClippedScion([{"params": [r], "norm": Weighted(2 * WEIGHTS)}], 0.1, rho=1.0)
    with pytest.raises(ValueError, match="build it with the saved one"):
        third.load_state_dict(optimizer.state_dict())


class Wrapping(Euclidean):
    pass


def test_norms_that_no_checkpoint_could_name_are_refused_when_the_optimizer_is_built():
    class WithFunction(Weighted):
        pass

    norm = WithFunction(WEIGHTS)
    norm.rule = lambda x: x
    p = nn.Parameter(torch.ones(3))
    with pytest.raises(TypeError, match="has an address"):
        ClippedScion([{"params": [p], "norm": norm}], 0.1)
    with pytest.raises(ValueError, match="without an address"):
        check_norm(norm, (3,))

    @dataclass
    class Mutable(Weighted):
        a: torch.Tensor

    with pytest.raises(TypeError, match=r"frozen=True"):
        ClippedScion([{"params": [p], "norm": Mutable(WEIGHTS)}], 0.1)


@pytest.mark.parametrize("norm", [Euclidean(), RMS(), L1(), Lp(3.0), Sign(), ByShape()], ids=str)
def test_stacks_of_scalars(norm):
    d = torch.tensor([0.5, -2.0, 0.0])
    lmo, dual = norm.stacked_lmo_and_dual(d)
    pairs = [norm.lmo_and_dual(x) for x in d]
    assert torch.allclose(lmo, torch.stack([v for v, _ in pairs]))
    assert torch.allclose(dual, torch.stack([x for _, x in pairs]).sum())
    assert torch.allclose(norm.stacked_norm(d), torch.stack([norm.norm(x) for x in d]).amax())


def test_two_scalars_in_one_optimizer_step_as_one_does():
    alone = nn.Parameter(torch.tensor(0.5))
    pair = [nn.Parameter(torch.tensor(0.5)) for _ in range(2)]
    # Far below the threshold of the pair and of the single one, all steps have full length.
    one, two = ClippedScion([alone], 0.01, rho=1e-9), ClippedScion(pair, 0.01, rho=1e-9)
    for _ in range(3):
        for p in (alone, *pair):
            p.grad = 2 * (p.detach() - 1)
        one.step()
        two.step()
    assert all(torch.equal(p, alone) for p in pair)
    assert float(alone.detach()) == pytest.approx(0.53)
