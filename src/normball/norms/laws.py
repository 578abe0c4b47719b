"""The laws that every norm of this package keeps, as a check for a norm of your own."""

import copy
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from normball.norms.base import Norm

__all__ = ["check_norm"]


def check_norm(
    norm: Norm, shape: Sequence[int], *, tol: float = 1e-6, draws: int = 8, seed: int = 0
) -> None:
    """Raise ValueError if a norm breaks a law, with the law and both of its sides.

    Tensors are random, in float64: dense, sparse, of rank one, and 0.

    Args:
        norm: the norm.
        shape: of the tensors.
        tol: the largest relative error; for approximate minimisers as much as they promise.
        draws: how many tensors of each kind.
        seed: of the random tensors.

    Raises:
        TypeError: `norm` is not a `Norm`.
        ValueError: a law does not hold, or the norm does not fit the shape.

    Examples:
        >>> from normball.norms import Norm, check_norm
        >>> class Ascent(Norm):
        ...     def norm(self, w):
        ...         return w.norm()
        ...
        ...     def lmo_and_dual(self, d):
        ...         return d / d.norm().clamp(min=1e-30), d.norm()  # the sign is wrong
        >>> try:
        ...     check_norm(Ascent(), (3,))
        ... except ValueError as error:
        ...     print(str(error).partition(" does not hold")[0])
        Ascent() on the shape (3,): <d, lmo(d)> = -dual_norm(d)
    """
    if not isinstance(norm, Norm):
        raise TypeError(f"norm={norm!r} is not an object of a class derived from Norm")
    size = torch.Size(shape)
    norm.check(size)
    laws = _Laws(norm, size, tol)
    generator = torch.Generator().manual_seed(seed)
    laws.of_zero()
    pairs = zip(_draws(size, draws, generator), _draws(size, draws, generator), strict=True)
    for d, x in pairs:
        laws.of_pair(d, x)
    laws.of_stacks(torch.stack(list(_draws(size, draws, generator))))
    laws.of_the_sphere(generator)
    laws.of_identity()


def _draws(shape: torch.Size, count: int, generator: torch.Generator) -> Iterator[Tensor]:
    for i in range(count):
        dense = torch.randn(shape, generator=generator, dtype=torch.float64)
        yield dense
        yield dense * (torch.rand(shape, generator=generator, dtype=torch.float64) < 0.5)
        if len(shape) > 1:
            column = torch.randn(shape[0], generator=generator, dtype=torch.float64)
            yield column.view(-1, *[1] * (len(shape) - 1)) * dense[:1] * 10.0 ** (i - count // 2)


class _Laws:
    def __init__(self, norm: Norm, shape: torch.Size, tol: float) -> None:
        self.norm, self.shape, self.tol = norm, shape, tol

    def _fail(self, law: str, left: object, right: object) -> None:
        raise ValueError(
            f"{self.norm!r} on the shape {tuple(self.shape)}: {law} does not hold: {left} and "
            f"{right}"
        )

    def _equal(self, law: str, left: Tensor, right: Tensor, size: Tensor | float = 0.0) -> None:
        """Compare, with an error relative to the larger of both sides and `size`."""
        if left.shape != right.shape:
            self._fail(f"{law} (shapes)", tuple(left.shape), tuple(right.shape))
        scale = max([0.0, float(size), *(float(x.abs().max()) for x in (left, right) if x.numel())])
        if not bool(((left - right).abs() <= self.tol * scale).all()):
            sides = (x.item() if x.numel() == 1 else x for x in (left, right))
            self._fail(law, *sides)

    def _at_most(self, law: str, left: Tensor, right: Tensor) -> None:
        if not float(left) <= float(right) + self.tol * max(abs(float(left)), abs(float(right))):
            self._fail(law, float(left), float(right))

    def of_zero(self) -> None:
        zero = torch.zeros(self.shape, dtype=torch.float64)
        lmo, dual = self.norm.lmo_and_dual(zero)
        self._equal("lmo(0) = 0", lmo, zero)
        self._equal("dual_norm(0) = 0", dual, zero.sum())
        self._equal("norm(0) = 0", self.norm.norm(zero), zero.sum())

    def of_pair(self, d: Tensor, x: Tensor) -> None:
        norm, before = self.norm, d.clone()
        lmo, dual = norm.lmo_and_dual(d)
        self._equal("lmo_and_dual(d) leaves d as it is", d, before)
        self._equal("<d, lmo(d)> = -dual_norm(d)", (d * lmo).sum(), -dual)
        self._equal("norm(lmo(d)) = 1", norm.norm(lmo), torch.ones_like(dual) * bool(d.any()))
        length, other = norm.norm(x), norm.dual_norm(x)
        self._at_most("|<d, x>| <= dual_norm(d) norm(x)", (d * x).sum().abs(), dual * length)
        self._equal("norm(-2 x) = 2 norm(x)", norm.norm(-2 * x), 2 * length)
        self._equal("dual_norm(-2 d) = 2 dual_norm(d)", norm.dual_norm(-2 * d), 2 * dual)
        self._equal("<d, lmo(-2 d)> = dual_norm(d)", (d * norm.lmo(-2 * d)).sum(), dual)
        self._at_most("norm(d + x) <= norm(d) + norm(x)", norm.norm(d + x), norm.norm(d) + length)
        self._at_most(
            "dual_norm(d + x) <= dual_norm(d) + dual_norm(x)", norm.dual_norm(d + x), dual + other
        )

    def of_stacks(self, stack: Tensor) -> None:
        _, total = self.norm.stacked_lmo_and_dual(stack)
        single = torch.stack([self.norm.dual_norm(d) for d in stack]).sum()
        self._equal("stacked_lmo_and_dual adds up the dual norms", total, single)
        largest = torch.stack([self.norm.norm(w) for w in stack]).amax()
        self._equal("stacked_norm is the largest norm", self.norm.stacked_norm(stack), largest)

    def of_the_sphere(self, generator: torch.Generator) -> None:
        w = self.norm.init_(torch.empty(self.shape, dtype=torch.float64), 3.0, generator)
        self._equal("norm(init_(w, 3)) = 3", self.norm.norm(w), w.new_tensor(3.0))

    def of_identity(self) -> None:
        twin = copy.deepcopy(self.norm)
        if " at 0x" in repr(self.norm):
            self._fail("repr() without an address, which checkpoints need,", self.norm, "-")
        if twin != self.norm or hash(twin) != hash(self.norm):
            self._fail("a copy is equal, with the same hash,", hash(twin), hash(self.norm))
