"""Updates of sharded matrices that ranks compute together, by a sum of Gram matrices."""

# Annotations stay strings: evaluated in a nested function they stop the compiler of torch 2.6.
from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from normball import parallel
from normball._numeric import peak, saturate
from normball._scalar import Scalar, known
from normball.optim.sharded import Owned, Sums, of_owner
from normball.polar.base import HIGH, LOW, OfGram
from normball.polar.products import gram


class _Matrix(parallel.Together):
    """A matrix whose minimiser is `-gain U V^T`, multiplied by the radius if constrained.

    `scale` divides its entries, so that their squares neither over- nor underflow. `dual` is the
    dual norm on the owner, and 0 on the other ranks.
    """

    scale: Scalar = 1.0

    def __init__(self, owned: Owned, of_gram: OfGram, gain: float, constrained: bool) -> None:
        self.index, bucket, self.cut, self.part, self.x = owned
        group, self.shape = bucket.group, bucket.first.tensor.shape
        self.flops = group.norm.flops(self.shape)
        self.dtype = torch.promote_types(self.part.dtype, torch.float32)
        self.dual = self.part.new_zeros((), dtype=torch.float64)
        self._of_gram, self._gain = of_gram, gain
        self._reach = gain * (group.radius if constrained else 1.0)

    def term(self, part: Tensor, dim: int) -> Tensor:
        """Return the Gram matrix of the scaled part."""
        part = self._scaled(part)
        return gram(part.mT if dim == 0 else part)

    def root(self, total: Tensor) -> Tensor:
        """Return what takes the scaled matrix to its polar factor, and keep the dual norm."""
        root, nuclear = self._of_gram(total)
        self.dual = saturate(self._gain * self.scale * nuclear.double())
        return root

    def minimiser(self, part: Tensor, root: Tensor, dim: int) -> Tensor:
        """Return this part of the minimiser."""
        part = self._scaled(part)
        return (part @ root.mT if dim == 0 else root @ part).mul_(-self._reach)

    def _scaled(self, part: Tensor) -> Tensor:
        return part / self.scale if isinstance(self.scale, Tensor) or self.scale != 1 else part


def together(
    buckets: list[Owned], constrained: bool, count: int, comm_dtype: torch.dtype | None = None
) -> Iterator[tuple[int, Sums]]:
    """Yield the updates of cut matrices whose polar factor their Gram matrix gives.

    `count` ranks compute each. What is yielded leaves the list before the first one is.
    """
    matrices, others = list[_Matrix](), list[Owned]()
    for one in buckets:
        found = _of_gram(one)
        if found is None:
            others.append(one)
        else:
            matrices.append(_Matrix(one, *found, constrained))
    buckets[:] = others
    _set_scales(matrices)
    for i, lmo in parallel.together(matrices, count, comm_dtype):
        matrix = matrices[i]
        update = of_owner(matrix.cut, lmo, matrix.dual, matrix.part, matrix.x)
        del matrix.part, matrix.x
        yield matrix.index, update


def _of_gram(one: Owned) -> tuple[OfGram, float] | None:
    """Return what computes the factor of a matrix from its Gram matrix, and the gain of its norm.

    None for whole matrices, and where a norm or its polar factor needs the matrix itself.
    """
    _, bucket, cut, d, _ = one
    shape = bucket.first.tensor.shape
    factor = bucket.group.norm.polar_factor(shape)
    if factor is None or not cut.dims:
        return None
    polar, gain = factor
    found = polar.of_gram(torch.promote_types(d.dtype, torch.float32), d.device, shape)
    return None if found is None else (found, gain)


def _set_scales(matrices: Sequence[_Matrix]) -> None:
    """Agree on the scale of every matrix: 1, or its largest entry, by one reduction for a group."""
    for group in dict.fromkeys(matrix.cut.group for matrix in matrices):
        some = [matrix for matrix in matrices if matrix.cut.group == group]
        ends = [peak(m.part).double() if m.part.numel() else torch.zeros_like(m.dual) for m in some]
        tops = parallel.largest(torch.stack(ends), group)
        moderate = (tops == 0) | ((tops >= LOW) & (tops <= HIGH))
        for matrix, scale in zip(some, torch.where(moderate, 1.0, tops).unbind(), strict=True):
            matrix.scale = known(scale)
