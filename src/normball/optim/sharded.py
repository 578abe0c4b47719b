"""Updates of sharded layers: what ranks sum up, and which matrices they exchange."""

# Annotations stay strings: evaluated in a nested function they stop the compiler of torch 2.6.
from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from normball import parallel
from normball._numeric import as_working, inner
from normball._scalar import number, tensor, wide
from normball.norms import Norm
from normball.optim.buckets import Bucket
from normball.optim.update import Update

Owned = tuple[int, Bucket, parallel.Cut, Tensor, Tensor | None]
"""Number of a bucket, the bucket, its cut, `d` and, if constrained, `x` of this rank."""


class Shared(Update):
    """The update of a bucket whose numbers are sums over ranks.

    With `partial_corner`, `settle` leaves `corner` at the value of this rank's part alone.
    """

    ready = False
    partial_corner = False
    share: Tensor
    """This rank's part of a sum over ranks, float64."""
    holders: parallel.Members
    """These ranks."""

    @abstractmethod
    def settle(self, total: Tensor) -> None:
        """Receive the sum of all shares."""

    def finish(self) -> None:
        """Use what other updates received in `settle`."""


class Sums(Shared):
    """A layer whose dual norm and product are sums over ranks, `[dual, product]`."""

    partial_corner = True

    def __init__(
        self, holders: parallel.Members, lmo: Tensor, dual: Tensor, product: Tensor | None,
        corner: Tensor | None,
    ) -> None:  # fmt: skip
        self.holders, self.lmo, self.corner = holders, lmo, corner
        self.share = torch.stack([wide(dual)] + ([] if product is None else [wide(product)]))

    def settle(self, total: Tensor) -> None:
        """Read the sums."""
        self.dual = number(total[0])
        self.product = number(total[1]) if len(total) > 1 else None


class Lines(Shared):
    """A layer of which every rank holds pieces of lines: ranks only add up the lengths of lines.

    `share` has the sums of squares and products by line, shape `(1 to 3, lines)`, in float64. If
    that overflows (float64 entries above 1e154), the sums are NaN, and the step changes nothing.
    """

    def __init__(
        self, norm: Norm, cut: parallel.Cut, shape: torch.Size, d: Tensor, x: Tensor | None,
        radius: float, corner: bool,
    ) -> None:  # fmt: skip
        found = norm.lines(shape)
        assert found is not None
        along, self._gain = found
        self.holders, self._radius, self._corner = cut.holders, radius, corner
        self._along = tuple(sorted(along))
        across = [dim for dim in range(len(shape)) if dim not in along]
        # The place of this rank's lines among all lines.
        self._place = tuple(
            cut.slices[dim] if dim in across else slice(None) for dim in range(len(shape))
        )
        sizes = [shape[dim] if dim in across else 1 for dim in range(len(shape))]
        squares = [(d, d)] if x is None else [(d, d), (d, x)] + ([(x, x)] if corner else [])
        share = d.new_zeros((len(squares), *sizes), dtype=torch.float64)
        if cut.first:
            for row, (a, b) in zip(share, squares, strict=True):
                row[self._place] = (a.double() * b.double()).sum(self._along, keepdim=True)
        self.share, self.lmo = share, -d

    def settle(self, total: Tensor) -> None:
        """Scale the minimiser by the lengths of the lines."""
        total = total + 0 * (total - total)  # infinity - infinity is NaN
        length = total[0].sqrt()
        self.dual = number(self._gain * length.sum())
        divisor = torch.where(length == 0, 1, length)
        scale = self._radius * self._gain / divisor
        self.lmo.mul_(scale[self._place].to(self.lmo.dtype))
        if len(total) > 1:
            self.product = number(total[1].sum())
        if self._corner:
            # ||x - u||^2 with u = -scale d; rounding can take it below zero.
            square = total[2] + 2 * scale * total[1] + scale**2 * total[0]
            self.corner = square.clamp(min=0).sqrt().amax() / (self._gain * self._radius)


class Pooled(Shared):
    """A parameter, when one scaled Euclidean norm is for all: only lengths are added up.

    `share` is `<d, d>`, and if constrained `<d, x>` and `<x, x>`. The range is that of `Lines`.
    `gain` is that of the norm, `pool` a list that all parameters have in common, and `first` says
    whether this rank adds its values to the sums.
    """

    def __init__(
        self, gain: float, pool: list[Tensor], holders: parallel.Members, first: bool, d: Tensor,
        x: Tensor | None, radius: float,
    ) -> None:  # fmt: skip
        self.holders, self._pool, self._gain, self._radius = holders, pool, gain, radius
        pairs = [(d, d)] if x is None else [(d, d), (d, x), (x, x)]
        sums = [(a.double() * b.double()).sum() for a, b in pairs]
        self.share = torch.stack(sums) if first else d.new_zeros(len(pairs), dtype=torch.float64)
        self.lmo = -d

    def settle(self, total: Tensor) -> None:
        """Add the sums of this parameter to the pool, where the other parameters read them."""
        self._mine = total + 0 * (total - total)  # infinity - infinity is NaN
        self._pool.append(self._mine)

    def finish(self) -> None:
        """Scale the minimiser by the length of all parameters together."""
        total, gain = sum(self._pool[1:], self._pool[0]), self._gain
        length = total[0].sqrt()
        length = torch.where(length == 0, 1, length)
        scale = self._radius * gain / length
        self.lmo.mul_(scale.to(self.lmo.dtype))
        self.dual = number(gain * self._mine[0] / length)
        if len(total) > 1:
            self.product = number(self._mine[1])
            square = total[2] + 2 * scale * total[1] + scale**2 * total[0]
            self.corner = square.clamp(min=0).sqrt() / (gain * self._radius)


def settle(updates: Sequence[Update], corner: bool) -> None:
    """Make the numbers of all updates those of whole layers; those that are ready keep theirs.

    There is one reduction for all layers that the same ranks hold. It is a sum, and also finds the
    largest corner: every rank writes its own into an entry that only this rank sets.
    """
    shared = [update for update in updates if isinstance(update, Shared)]
    if not shared:
        return
    values = [update.share for update in shared]
    over = [update.holders for update in shared]
    if corner:
        for holders in dict.fromkeys(over):
            values.append(_corners(shared, holders, values[0]))
            over.append(holders)
    totals = parallel.add_up(values, over)
    for update, total in zip(shared, totals, strict=False):
        update.settle(total)
    for update in shared:
        update.finish()
    for holders, slots in zip(over[len(shared) :], totals[len(shared) :], strict=True):
        for update in shared:
            if update.partial_corner and update.holders == holders:
                update.corner = slots.amax()


def _corners(updates: Sequence[Shared], holders: parallel.Members, like: Tensor) -> Tensor:
    """Return one entry per holder: this rank's has its largest partial corner, the others are 0."""
    slots = like.new_zeros(len(holders.ranks))
    seen = [t.corner for t in updates if t.partial_corner and t.holders == holders]
    corners = [tensor(corner, slots) for corner in seen if corner is not None]
    if corners:
        slots[holders.here] = torch.stack(corners).amax()
    return slots


def of_piece(
    norm: Norm, cut: parallel.Cut, shape: torch.Size, d: Tensor, x: Tensor | None,
    radius: float, corner: bool,
) -> Sums:  # fmt: skip
    """Return the update of a piece that has its own ball: it needs no values of other ranks."""
    found = norm.lines(shape)
    scale = 1.0
    if found is not None:
        here = norm.lines(d.shape)
        assert here is not None
        scale = found[1] / here[1]
    if d.numel():
        lmo, dual = norm.lmo_and_dual(d)
        lmo, dual = lmo.mul_(radius * scale), dual.double() * scale
    else:
        lmo, dual = torch.empty_like(d), d.new_zeros((), dtype=torch.float64)
    ratio = None
    if corner:
        assert x is not None
        ratio = dual.new_zeros(())
        if d.numel():
            ratio = norm.norm(x - lmo).double() / (scale * radius)
    share = None if x is None else inner(as_working(d), as_working(x)).double()
    if not cut.first:
        dual, share = 0 * dual, None if share is None else 0 * share
    return Sums(cut.holders, lmo, dual, share, ratio)


def divided(
    buckets: list[Owned], constrained: bool, corner: bool, comm_dtype: torch.dtype | None = None
) -> Iterator[tuple[int, Sums]]:
    """Yield the updates of layers that one rank of each team computes; empty the list.

    The inputs of a layer are freed when its update is ready.
    """
    held = dict(enumerate(buckets))
    buckets.clear()
    jobs, seen = [], {}
    for _, bucket, cut, d, x in held.values():
        first = bucket.first
        parts = [d, x] if corner and x is not None else [d]
        shape = first.tensor.shape
        jobs.append(parallel.Job(cut, shape, parts, first.group.norm.flops(shape)))

    def minimise(i: int, wholes: list[Tensor]) -> Tensor:
        first = held[i][1].first
        norm, radius = first.group.norm, first.group.radius
        lmo, dual = norm.lmo_and_dual(wholes[0])
        if constrained:
            lmo.mul_(radius)
        seen[i] = dual.double(), norm.norm(wholes[1] - lmo) / radius if corner else None
        return lmo

    for i, lmo in parallel.divide(jobs, minimise, comm_dtype):
        index, _, cut, d, x = held.pop(i)
        jobs[i].parts.clear()
        zero = d.new_zeros((), dtype=torch.float64)
        dual, ratio = seen.get(i, (zero, zero if corner else None))
        update = of_owner(cut, lmo, dual, d, x, ratio)
        del d, x
        yield index, update


def of_owner(
    cut: parallel.Cut, lmo: Tensor, dual: Tensor, d: Tensor, x: Tensor | None,
    ratio: Tensor | None = None,
) -> Sums:  # fmt: skip
    """Return the update of a layer of which one rank of a team, the owner, has the dual norm.

    The other ranks pass 0. `lmo`, `d` and `x` are this rank's parts.
    """
    # Every copy has an owner of its own, unless the owner is one rank of all copies.
    if cut.dims and cut.copies == 1 and not cut.first:
        dual = 0 * dual
    product = None
    if x is not None:
        zero = d.new_zeros((), dtype=torch.float64)
        product = inner(as_working(d), as_working(x)).double() if cut.first else zero
    return Sums(cut.holders, lmo, dual, product, ratio)
