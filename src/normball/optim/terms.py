"""The contribution of each layer to a step, and which parts of it are summed over ranks."""

# Annotations stay strings: evaluated in a nested function they stop the compiler of torch 2.6.
from __future__ import annotations

from abc import ABC
from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
from torch import Tensor

from normball import parallel
from normball._numeric import as_working, inner, pieces
from normball._scalar import Scalar, number, tensor, wide
from normball.norms import Norm
from normball.optim.buckets import Bucket

Owned = tuple[int, Bucket, parallel.Cut, Tensor, Tensor | None]
"""Number of a bucket, the bucket, its cut, `d` and, if constrained, `x` of this rank."""


class Term(ABC):
    """One bucket in one step.

    `update` is this rank's part of the minimiser over the ball. Three numbers are those of the
    whole bucket after `settle` was called: `dual`, the dual norm; `product`, `<d, x>`; and
    `corner`, `||x - update|| / radius`. With `partial_corner`, that call leaves `corner` at the
    value of this rank's part alone.
    """

    update: Tensor
    dual: Scalar
    parts: Tensor | None = None
    """`<d, update>` of every parameter, for a bucket of several groups."""
    product: Scalar | None = None
    corner: Scalar | None = None
    partial_corner = False
    holders: parallel.Members
    """The ranks over which `share` is added up; only where there is a share."""

    @property
    def share(self) -> Tensor | None:
        """This rank's part of a sum over ranks, float64; None if no sum is needed."""
        return None

    def settle(self, total: Tensor) -> None:  # noqa: B027 (what is known takes in nothing)
        """Receive the sum of all shares."""

    def finish(self) -> None:  # noqa: B027 (most need nothing of other terms)
        """Use what other terms received in `settle`."""

    def steps(self, bucket: Bucket) -> Iterable[tuple[Bucket, Tensor]]:
        """Return the bucket and its update, or one after the other its parts with theirs."""
        return [(bucket, self.update)]


class Known(Term):
    """A bucket of which this rank holds all, or has gathered all."""

    def __init__(
        self, update: Tensor, dual: Tensor, product: Tensor | None = None,
        corner: Tensor | None = None, parts: Tensor | None = None,
    ) -> None:  # fmt: skip
        self.update, self.dual, self.corner = update, number(dual), corner
        self.parts = None if parts is None else wide(parts)
        self.product = None if product is None else number(product)

    def forget(self) -> None:
        """Free the update, once the step is taken."""
        del self.update

    def steps(self, bucket: Bucket) -> Iterable[tuple[Bucket, Tensor]]:
        """Return the bucket and its update; nothing after `forget`."""
        return super().steps(bucket) if hasattr(self, "update") else []


class ByRows(Term):
    """A large layer whose rows have a ball each: its update is computed twice, and never held.

    The first time gives the dual norm, the second time the steps, piece by piece. A layer of which
    this rank holds all, and whose minimiser is about as cheap as a copy.
    """

    def __init__(self, bucket: Bucket, estimate: Callable[[slice], Tensor]) -> None:
        self._estimate = estimate
        self._pieces = pieces(bucket.first.shard)
        duals = [self._minimum(bucket, rows)[1] for rows in self._pieces]
        self.dual = number(wide(torch.stack(duals)).sum())

    @staticmethod
    def fits(norm: Norm, x: Tensor) -> bool:
        """Tell whether a layer has several pieces, and every row has a ball of its own."""
        lines = norm.lines(x.shape) if x.ndim and len(pieces(x)) > 1 else None
        if lines is None or 0 in lines[0]:
            return False
        return norm.lines(torch.Size((1, *x.shape[1:]))) == lines  # also alone

    def steps(self, bucket: Bucket) -> Iterator[tuple[Bucket, Tensor]]:
        """Yield pieces of the layer, and their updates."""
        for rows in self._pieces:
            yield bucket.some_rows(rows), self._minimum(bucket, rows)[0]

    def _minimum(self, bucket: Bucket, rows: slice) -> tuple[Tensor, Tensor]:
        return bucket.group.norm.lmo_and_dual(self._estimate(rows))


class Sums(Term):
    """A layer whose dual norm and product are sums over ranks, `[dual, product]`."""

    partial_corner = True

    def __init__(
        self, holders: parallel.Members, update: Tensor, dual: Tensor, product: Tensor | None,
        corner: Tensor | None,
    ) -> None:  # fmt: skip
        self.holders, self.update, self.corner = holders, update, corner
        self._parts = [wide(dual)] + ([] if product is None else [wide(product)])

    @property
    def share(self) -> Tensor:
        """This rank's parts of the sums."""
        return torch.stack(self._parts)

    def settle(self, total: Tensor) -> None:
        """Read the sums."""
        self.dual = number(total[0])
        self.product = number(total[1]) if len(total) > 1 else None


class Lines(Term):
    """A layer of which every rank holds pieces of lines: ranks only add up the lengths of lines.

    Squares are summed in float64. If that overflows (float64 entries above 1e154), the sums are
    NaN, and the step changes nothing.
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
        self._share = share
        self.update = -d

    @property
    def share(self) -> Tensor:
        """Sums of squares and products by line, shape `(1 to 3, lines)`."""
        return self._share

    def settle(self, total: Tensor) -> None:
        """Scale the update by the lengths of the lines."""
        total = total + 0 * (total - total)  # infinity - infinity is NaN
        length = total[0].sqrt()
        self.dual = number(self._gain * length.sum())
        divisor = torch.where(length == 0, 1, length)
        scale = self._radius * self._gain / divisor
        self.update.mul_(scale[self._place].to(self.update.dtype))
        if len(total) > 1:
            self.product = number(total[1].sum())
        if self._corner:
            # ||x - u||^2 with u = -scale d; rounding can take it below zero.
            square = total[2] + 2 * scale * total[1] + scale**2 * total[0]
            self.corner = square.clamp(min=0).sqrt().amax() / (self._gain * self._radius)


class Pool:
    """The squares and products of all parameters of one Euclidean norm."""

    def __init__(self, gain: float) -> None:
        self.gain = gain
        self.total: Tensor | None = None

    def add(self, total: Tensor) -> None:
        """Add those of one parameter."""
        self.total = total if self.total is None else self.total + total


class Pooled(Term):
    """A parameter, when one scaled Euclidean norm is for all params: only lengths are added up.

    The range is that of `Lines`. `first` says whether this rank adds its values to the sums.
    """

    def __init__(
        self, pool: Pool, holders: parallel.Members, first: bool, d: Tensor, x: Tensor | None,
        radius: float,
    ) -> None:  # fmt: skip
        self.holders, self._pool, self._radius = holders, pool, radius
        pairs = [(d, d)] if x is None else [(d, d), (d, x), (x, x)]
        sums = [(a.double() * b.double()).sum() for a, b in pairs]
        self._share = torch.stack(sums) if first else d.new_zeros(len(pairs), dtype=torch.float64)
        self.update = -d

    @property
    def share(self) -> Tensor:
        """`<d, d>`, and if constrained `<d, x>` and `<x, x>`."""
        return self._share

    def settle(self, total: Tensor) -> None:
        """Add the sums of this parameter to the pool, where the other parameters read them."""
        self._mine = total + 0 * (total - total)  # infinity - infinity is NaN
        self._pool.add(self._mine)

    def finish(self) -> None:
        """Scale the update by the length of all parameters together."""
        total, gain = self._pool.total, self._pool.gain
        assert total is not None
        length = total[0].sqrt()
        length = torch.where(length == 0, 1, length)
        scale = self._radius * gain / length
        self.update.mul_(scale.to(self.update.dtype))
        self.dual = number(gain * self._mine[0] / length)
        if len(total) > 1:
            self.product = number(self._mine[1])
            square = total[2] + 2 * scale * total[1] + scale**2 * total[0]
            self.corner = square.clamp(min=0).sqrt() / (gain * self._radius)


def settle(terms: Sequence[Term], corner: bool) -> None:
    """Make the numbers of all terms those of whole layers; a `Known` term needs no reduction.

    There is one reduction for all layers that the same ranks hold. It is a sum, and also finds the
    largest corner: every rank writes its own into an entry that only this rank sets.
    """
    shares = [term.share for term in terms]
    shared = [term for term, share in zip(terms, shares, strict=True) if share is not None]
    if not shared:
        return
    values = [share for share in shares if share is not None]
    over = [term.holders for term in shared]
    if corner:
        for holders in dict.fromkeys(over):
            values.append(_corners(shared, holders, values[0]))
            over.append(holders)
    totals = parallel.add_up(values, over)
    for term, total in zip(shared, totals, strict=False):
        term.settle(total)
    for term in shared:
        term.finish()
    for holders, slots in zip(over[len(shared) :], totals[len(shared) :], strict=True):
        for term in shared:
            if term.partial_corner and term.holders == holders:
                term.corner = slots.amax()


def _corners(terms: Sequence[Term], holders: parallel.Members, like: Tensor) -> Tensor:
    """Return one entry per holder: this rank's has its largest partial corner, the others are 0."""
    slots = like.new_zeros(len(holders.ranks))
    seen = [t.corner for t in terms if t.partial_corner and t.holders == holders]
    corners = [tensor(corner, slots) for corner in seen if corner is not None]
    if corners:
        slots[holders.here] = torch.stack(corners).amax()
    return slots


def of_piece(
    norm: Norm, cut: parallel.Cut, shape: torch.Size, d: Tensor, x: Tensor | None,
    radius: float, corner: bool,
) -> Sums:  # fmt: skip
    """Return the term of a piece that has its own ball: it needs no values of other ranks."""
    found = norm.lines(shape)
    scale = 1.0
    if found is not None:
        here = norm.lines(d.shape)
        assert here is not None
        scale = found[1] / here[1]
    if d.numel():
        lmo, dual = norm.lmo_and_dual(d)
        update, dual = lmo.mul_(radius * scale), dual.double() * scale
    else:
        update, dual = torch.empty_like(d), d.new_zeros((), dtype=torch.float64)
    ratio = None
    if corner:
        assert x is not None
        ratio = dual.new_zeros(())
        if d.numel():
            ratio = norm.norm(x - update).double() / (scale * radius)
    share = None if x is None else inner(as_working(d), as_working(x)).double()
    if not cut.first:
        dual, share = 0 * dual, None if share is None else 0 * share
    return Sums(cut.holders, update, dual, share, ratio)


def divided(
    buckets: list[Owned], constrained: bool, corner: bool, comm_dtype: torch.dtype | None = None
) -> Iterator[tuple[int, Sums]]:
    """Yield the terms of layers that one rank of each team computes; empty the list.

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
        update, dual = first.group.norm.lmo_and_dual(wholes[0])
        if constrained:
            update.mul_(first.group.radius)
        ratio = first.group.norm.norm(wholes[1] - update) / first.group.radius if corner else None
        seen[i] = dual.double(), ratio
        return update

    for i, update in parallel.divide(jobs, minimise, comm_dtype):
        number, _, cut, d, x = held.pop(i)
        jobs[i].parts.clear()
        zero = d.new_zeros((), dtype=torch.float64)
        dual, ratio = seen.get(i, (zero, zero if corner else None))
        # Every copy has an owner of its own, unless the owner is one rank of all copies.
        if cut.dims and cut.copies == 1 and not cut.first:
            dual = 0 * dual
        product = None
        if x is not None:
            product = inner(as_working(d), as_working(x)).double() if cut.first else zero
        del d, x
        yield number, Sums(cut.holders, update, dual, product, ratio)
