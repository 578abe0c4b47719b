"""The minimiser of each bucket, and what the bucket adds to the numbers of a step."""

# Annotations stay strings: evaluated in a nested function they stop the compiler of torch 2.6.
from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
from torch import Tensor

from normball._numeric import pieces, step_where_
from normball._scalar import Flag, Scalar, number, tensor, wide
from normball.optim.buckets import Bucket


class Update:
    """What a step does to one bucket: here, one of which this rank holds all, or has gathered all.

    `lmo` is this rank's part of the minimiser over the ball. Three numbers are those of the whole
    bucket: `dual`, the dual norm; `product`, `<d, x>`; and `corner`, `||x - lmo|| / radius`. Where
    ranks hold parts of it (`normball.optim.sharded`), they are so after `settle` was called.

    Args:
        lmo: the minimiser, multiplied by the radius if the step is constrained.
        dual: the dual norm, 0-d.
        product: `<d, x>`, 0-d; only if constrained.
        corner: 0-d; only where the step length needs it.
        parts: `<d, lmo>` of every parameter, shape `(k,)`, for a bucket of several groups.
    """

    lmo: Tensor
    dual: Scalar
    product: Scalar | None = None
    corner: Scalar | None = None
    parts: Tensor | None = None
    ready = True
    """Whether its numbers need nothing of other ranks."""

    def __init__(
        self, lmo: Tensor, dual: Tensor, product: Tensor | None = None,
        corner: Tensor | None = None, parts: Tensor | None = None,
    ) -> None:  # fmt: skip
        self.lmo, self.dual, self.corner = lmo, number(dual), corner
        self.parts = None if parts is None else wide(parts)
        self.product = None if product is None else number(product)

    @property
    def held(self) -> bool:
        """Whether the minimiser is in memory."""
        return hasattr(self, "lmo")

    def forget(self) -> None:
        """Free the minimiser."""
        del self.lmo

    def steps(self, bucket: Bucket) -> Iterable[tuple[Bucket, Tensor]]:
        """Return the bucket and its minimiser, if it is held, or its parts with theirs."""
        return [(bucket, self.lmo)] if self.held else []


class ByRows(Update):
    """A large layer whose rows have a ball each: its update is computed twice, and never held.

    The first time gives the dual norm, the second time the steps, piece by piece. A layer of which
    this rank holds all, and whose minimiser is about as cheap as a copy.
    """

    def __init__(self, bucket: Bucket, estimate: Callable[[slice], Tensor]) -> None:
        self._estimate = estimate
        self._pieces = pieces(bucket.first.shard)
        duals = [self._minimum(bucket, rows)[1] for rows in self._pieces]
        self.dual = number(wide(torch.stack(duals)).sum())

    def steps(self, bucket: Bucket) -> Iterator[tuple[Bucket, Tensor]]:
        """Yield pieces of the layer, and their updates."""
        for rows in self._pieces:
            yield bucket.some_rows(rows), self._minimum(bucket, rows)[0]

    def _minimum(self, bucket: Bucket, rows: slice) -> tuple[Tensor, Tensor]:
        return bucket.group.norm.lmo_and_dual(self._estimate(rows))


def move(
    buckets: Sequence[Bucket], updates: Sequence[Update], factor: Scalar, finite: Flag, to: bool
) -> None:
    """Add the minimisers, times one factor, to the weights; with `to`, go so far to them.

    Args:
        buckets: of a step.
        updates: one for each.
        factor: the share of the longest step.
        finite: whether the step is taken; if not, every bit stays.
        to: whether the minimisers are points of the balls.
    """
    if finite is False:
        return
    for bucket, update in zip(buckets, updates, strict=True):
        for part, lmo in update.steps(bucket):
            _move_one(part, lmo, factor, finite, to)


def _move_one(bucket: Bucket, lmo: Tensor, factor: Scalar, finite: Flag, to: bool) -> None:
    first = bucket.first
    longest = number(first.group.longest)
    if isinstance(longest, Tensor) and isinstance(factor, Tensor):
        longest = longest.to(factor.device)
    length = longest * factor if to else longest * first.group.radius * factor
    plain = lmo.dtype == first.shard.dtype and lmo.dtype.itemsize >= 4
    if plain and (bucket.active is None or not to):
        rows, params = bucket.rows_of(lmo), bucket.shards
        if step_where_(params, rows, length, finite, to=to):
            return
        if not isinstance(finite, Tensor) and not isinstance(length, Tensor):
            if to:
                torch._foreach_lerp_(params, rows, length)
            else:
                torch._foreach_add_(params, rows, alpha=length)
            return
    dtype = torch.promote_types(first.shard.dtype, lmo.dtype)
    dtype = torch.float32 if dtype.itemsize < 4 else dtype
    old = bucket.join(bucket.shards)
    x, lmo = old.to(dtype), lmo.to(dtype)
    into: Tensor | None = old if finite is True and old.dtype == dtype else lmo
    if torch.compiler.is_compiling():
        into = None  # a compiler takes contiguous memory only
    length = tensor(length, x)
    if to:
        share = length if bucket.active is None else length * bucket.active
        new = torch.lerp(x, lmo, share, out=into)
    else:
        new = torch.addcmul(x, lmo, length, out=into)
    bucket.keep_(new.to(old.dtype), old, finite)
