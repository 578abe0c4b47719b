"""How the parameters of an optimizer form one norm ball."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from normball import parallel
from normball._numeric import as_working, inner, saturate
from normball._scalar import Scalar
from normball.norms import Norm, Sign, VectorNorm
from normball.optim import gram, sharded
from normball.optim.buckets import Bucket, Param, buckets_of
from normball.optim.estimate import Estimate, Values
from normball.optim.sharded import Owned, Pooled
from normball.optim.update import ByRows, Update


class Geometry(ABC):
    """A norm over all parameters together, and its minimiser."""

    split = False
    """Whether ranks that hold the same parameters divide the costly minimisers among them."""
    comm_dtype: torch.dtype | None = None
    """The dtype in which ranks exchange matrices; None for their own."""
    ranks_per_matrix = 1
    """How many ranks compute one minimiser together, where a Gram matrix gives it."""

    @abstractmethod
    def buckets(self, params: Sequence[Param], tight: bool) -> list[Bucket]:
        """Return the buckets that a step works on; `tight` if memory matters most."""

    @abstractmethod
    def minimise(
        self, buckets: Sequence[Bucket], estimates: Sequence[Tensor]
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield for every bucket its part of the minimiser over the unit ball, new tensors.

        Each comes with the bucket's part of the dual norm, 0-d. The sum of these parts, each
        multiplied by its radius, is the dual norm of the whole.
        """

    @abstractmethod
    def updates(
        self,
        buckets: Sequence[Bucket],
        estimates: Sequence[Estimate],
        constrained: bool,
        corner: bool,
    ) -> Iterator[tuple[int, Update]]:
        """Yield the number of every bucket once, and its update.

        Args:
            buckets: those of this step.
            estimates: of each, this rank's parts.
            constrained: whether to multiply minimisers by their radius, and compute `<d, x>` too.
            corner: whether to compute the corner of an update, if `corners` reads it from there.
        """

    @abstractmethod
    def corners(self, buckets: Sequence[Bucket], updates: Sequence[Update]) -> list[Scalar]:
        """Return the values of `||x - update|| / radius`, over all ranks."""

    @abstractmethod
    def ratios(self, buckets: Sequence[Bucket], points: Iterable[Tensor]) -> list[Tensor]:
        """Return the largest norm of points divided by its radius, 0-d: one per bucket or ball."""

    @abstractmethod
    def balls(self, params: Sequence[Param]) -> list[Sequence[Param]]:
        """Return which parameters share a ball, in the order of `ratios` of single parameters."""

    def check_count(self, count: int) -> None:  # noqa: B027 (layers: as many as there are)
        """Raise ValueError if the norm cannot take that many parameters."""

    def check_norm(self, norm: Norm) -> None:  # noqa: B027 (layers: each its own)
        """Raise ValueError for a norm in a group that the step would not use."""

    def check_complete(self, missing: Sequence[str]) -> None:  # noqa: B027 (a ball each: no need)
        """Raise ValueError if a constrained step without these parameters can leave the ball."""


class Layers(Geometry):
    """The product norm: every parameter has its own norm and ball, and the dual norms add up.

    With `split`, ranks that hold the same parameters, or copies of the same shards, divide the
    costly minimisers among them.
    Ranks exchange matrices in `comm_dtype`; None is that of the momentum.
    `ranks_per_matrix` of them compute a sharded matrix together, if its Gram matrix is enough.
    """

    def __init__(
        self,
        split: bool = False,
        comm_dtype: torch.dtype | None = None,
        ranks_per_matrix: int = 1,
    ) -> None:
        if comm_dtype is not None and not comm_dtype.is_floating_point:
            raise ValueError(f"comm_dtype={comm_dtype} must be a floating dtype")
        self.split = split
        self.comm_dtype = comm_dtype
        if isinstance(ranks_per_matrix, bool) or not isinstance(ranks_per_matrix, int):
            raise TypeError(f"ranks_per_matrix={ranks_per_matrix!r} must be a whole number")
        if ranks_per_matrix < 1:
            raise ValueError(f"ranks_per_matrix={ranks_per_matrix} must be at least 1")
        self.ranks_per_matrix = ranks_per_matrix

    def buckets(self, params: Sequence[Param], tight: bool) -> list[Bucket]:
        """Return buckets: small equal layers together, large ones alone."""
        return buckets_of(params, tight)

    def minimise(
        self, buckets: Sequence[Bucket], estimates: Sequence[Tensor]
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield `lmo_l(d_l)` and `||d_l||_l*`, one bucket after the other."""
        for bucket, d in zip(buckets, estimates, strict=True):
            norm = bucket.group.norm
            yield norm.stacked_lmo_and_dual(d) if bucket.stacked else norm.lmo_and_dual(d)

    def updates(
        self,
        buckets: Sequence[Bucket],
        estimates: Sequence[Estimate],
        constrained: bool,
        corner: bool,
    ) -> Iterator[tuple[int, Update]]:
        """Yield the layers that each rank computes for itself, then those of the owners.

        Large layers come first: their workspace is then not beside the updates of all others.
        """
        owned: list[Owned] = []
        sizes = [bucket.size for bucket in buckets]
        for number in sorted(range(len(buckets)), key=sizes.__getitem__, reverse=True):
            bucket = buckets[number]
            # In its own call, so that no estimate stays in memory while the next is computed.
            estimate = estimates[number]
            found = None if constrained else self._by_rows(bucket, estimate)
            if found is None:
                found = self._one(number, bucket, estimate.value(), constrained, corner, owned)
            if found is not None:
                yield number, found
        if self.ranks_per_matrix > 1 and not corner:  # a corner is the norm of a whole matrix
            count = self.ranks_per_matrix
            yield from gram.together(owned, constrained, count, self.comm_dtype)
        yield from sharded.divided(owned, constrained, corner, self.comm_dtype)

    @staticmethod
    def _by_rows(bucket: Bucket, estimate: Estimate) -> Update | None:
        """Return the update of a layer that needs no memory for its update; None for the others."""
        if bucket.stacked or bucket.first.sharded or bucket.room is not None:
            return None
        if not bucket.by_rows:
            return None
        return ByRows(bucket, replace(estimate).rows)  # a copy, which nothing frees

    def _one(
        self,
        number: int,
        bucket: Bucket,
        d: Tensor,
        constrained: bool,
        corner: bool,
        owned: list[Owned],
    ) -> Update | None:
        """Return the update of a bucket; None if an owner computes it, then it is in `owned`."""
        first = bucket.first
        norm, shape = first.group.norm, first.tensor.shape
        radius = first.group.radius if constrained else 1.0
        x = bucket.join(bucket.shards).to(d.dtype) if constrained else None
        if corner and x is not None and bucket.active is not None:
            x = x * bucket.active  # a part that rests does not move to the corner
        if not first.sharded and not self.split:
            return self._whole(bucket, d, x, radius, corner)
        cut = parallel.cut_of(first.tensor)
        if cut is not None and cut.boxes:
            lines = norm.lines(shape)
            if not cut.dims & lines[0] if lines else cut.dims <= norm.free(shape):
                return sharded.of_piece(norm, cut, shape, d, x, radius, corner)
            if lines:
                return sharded.Lines(norm, cut, shape, d, x, radius, corner)
            if self.split:
                cut = parallel.of_all_copies(cut, first.tensor)
            owned.append((number, bucket, cut, d, x))
            return None
        if cut is None and self.split and not bucket.stacked and norm.lines(shape) is None:
            cut = parallel.everyone(shape)
            if cut is not None:
                owned.append((number, bucket, cut, d, x))
                return None
        return self._whole(bucket, bucket.whole(d), x, radius, corner)

    def _whole(
        self, bucket: Bucket, d: Tensor, x: Tensor | None, radius: float, corner: bool
    ) -> Update:
        """Return the update of a layer of which this rank holds all, or gathers all."""
        norm, room = bucket.group.norm, bucket.room
        room = d if room is None and bucket.fresh and not bucket.stacked else room
        product = ratio = None
        if x is not None:
            x = bucket.whole(x)
            product = inner(as_working(d), as_working(x))
        saves = room is not None and type(norm).lmo_and_dual_into is not Norm.lmo_and_dual_into
        if bucket.stacked:
            lmo, dual = norm.stacked_lmo_and_dual(d)
        elif room is not None and saves and room.shape == d.shape:
            lmo, dual = norm.lmo_and_dual_into(d, room)
        else:
            lmo, dual = norm.lmo_and_dual(d)
        parts = None
        if bucket.groups is not None:
            parts = (as_working(d) * lmo).reshape(len(d), -1).sum(1)
        if x is not None:
            lmo.mul_(radius)
            ratio = self.ratios([bucket], [x - lmo])[0] if corner else None
        return Update(bucket.part(lmo), dual, product, ratio, parts)

    def corners(self, buckets: Sequence[Bucket], updates: Sequence[Update]) -> list[Scalar]:  # noqa: ARG002
        """Return the corner of every layer."""
        return [update.corner for update in updates if update.corner is not None]

    def ratios(self, buckets: Sequence[Bucket], points: Iterable[Tensor]) -> list[Tensor]:
        """Return `||w_l||_l / r_l`, the largest of every bucket."""
        ratios = []
        for bucket, x in zip(buckets, points, strict=True):
            norm, radius = bucket.group.norm, bucket.group.radius
            ratios.append((norm.stacked_norm(x) if bucket.stacked else norm.norm(x)) / radius)
        return ratios

    def balls(self, params: Sequence[Param]) -> list[Sequence[Param]]:
        """Return every parameter on its own."""
        return [[param] for param in params]


class Joint(Geometry):
    """One norm over the concatenation of all parameters, or over a single matrix."""

    def __init__(self, norm: Norm) -> None:
        self.norm = norm

    def buckets(self, params: Sequence[Param], tight: bool) -> list[Bucket]:  # noqa: ARG002
        """Return every parameter alone; the norm works on all of them together."""
        return [Bucket([param]) for param in params]

    def minimise(
        self,
        buckets: Sequence[Bucket],  # noqa: ARG002
        estimates: Sequence[Tensor],
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the parameters of `lmo(d)`, and `-<d_l, lmo_l>`, whose sum is the dual norm."""
        if not isinstance(self.norm, VectorNorm):
            yield from (self.norm.lmo_and_dual(d) for d in estimates)
            return
        lmos, dual = self.norm.joint_lmo_and_dual(estimates)
        if len(estimates) == 1:
            yield lmos[0], dual
            return
        for i, lmo in enumerate(lmos):
            yield lmo, saturate(-inner(as_working(estimates[i]), as_working(lmo)))

    def updates(
        self,
        buckets: Sequence[Bucket],
        estimates: Sequence[Estimate],
        constrained: bool,
        corner: bool,
    ) -> Iterator[tuple[int, Update]]:
        """Yield the parameters one after the other.

        Sharded parameters under a Euclidean norm or a box stay where they are, and so does a single
        tensor; under another vector norm they are gathered on every rank.
        """
        if self._apart(buckets):
            yield from Layers().updates(buckets, estimates, constrained, corner)
            return
        gain, pool = self._gain(buckets), list[Tensor]()
        if gain is not None:
            for number, (bucket, estimate) in enumerate(zip(buckets, estimates, strict=True)):
                d = estimate.value()
                cut = parallel.cut_of(bucket.first.tensor)
                holders = cut.holders if cut is not None else parallel.everybody()
                reports = cut.first if cut is not None else holders.here == 0
                x = bucket.first.shard.to(d.dtype) if constrained else None
                radius = bucket.group.radius if constrained else 1.0
                yield number, Pooled(gain, pool, holders, reports, d, x, radius)
            return
        wholes: Sequence[Tensor] = Values(estimates)
        if self._cut(buckets):
            wholes = [b.whole(d) for b, d in zip(buckets, wholes, strict=True)]
        for number, (lmo, dual) in enumerate(self.minimise(buckets, wholes)):
            bucket, product = buckets[number], None
            if constrained:
                lmo.mul_(bucket.group.radius)
                d = wholes[number]
                x = bucket.whole(bucket.join(bucket.shards)).to(d.dtype)
                product = inner(as_working(d), as_working(x))
            yield number, Update(bucket.part(lmo), dual, product)

    def _apart(self, buckets: Sequence[Bucket]) -> bool:
        """Tell whether one is sharded, and parameters have own balls or there is only one."""
        alone = not isinstance(self.norm, VectorNorm) or isinstance(self.norm, Sign)
        return alone and self._cut(buckets)

    def _gain(self, buckets: Sequence[Bucket]) -> float | None:
        """Return the gain of sharded ones' common length; None if squares do not give the norm."""
        size = sum(bucket.first.tensor.numel() for bucket in buckets)
        lines = self.norm.lines(torch.Size([size])) if self._cut(buckets) else None
        return lines[1] if lines and lines[0] else None

    @staticmethod
    def _cut(buckets: Sequence[Bucket]) -> bool:
        return any(parallel.cut_of(bucket.first.tensor) is not None for bucket in buckets)

    def corners(self, buckets: Sequence[Bucket], updates: Sequence[Update]) -> list[Scalar]:
        """Return the corner of all parameters together."""
        if self._cut(buckets) and updates[0].corner is not None:
            return [update.corner for update in updates if update.corner is not None]
        points = (
            b.whole(b.join(b.shards).to(t.lmo.dtype) - t.lmo)
            for b, t in zip(buckets, updates, strict=True)
        )
        return list(self.ratios(buckets, points))

    def ratios(self, buckets: Sequence[Bucket], points: Iterable[Tensor]) -> list[Tensor]:
        """Return `||w|| / beta` of all parameters together."""
        parts = list(points)
        if isinstance(self.norm, VectorNorm):
            return [self.norm.joint_norm(parts) / buckets[0].group.radius]
        return [self.norm.norm(parts[0]) / buckets[0].group.radius]

    def balls(self, params: Sequence[Param]) -> list[Sequence[Param]]:
        """Return all parameters as one."""
        return [params]

    def check_count(self, count: int) -> None:
        """Raise ValueError for several parameters with a norm that takes a single tensor."""
        alone = not isinstance(self.norm, VectorNorm) or self.norm == Sign(normalized=True)
        if alone and count > 1:
            raise ValueError(
                f"{self.norm} is a norm of a single tensor, got {count}: use a vector norm such "
                "as Euclidean() over all, or ClippedScion with a norm for every layer"
            )

    def check_norm(self, norm: Norm) -> None:
        """Raise ValueError for another norm than the one that this was built with."""
        if norm != self.norm:
            raise ValueError(
                f"a group was given the norm {norm!r}, but this optimizer was built with "
                f"{self.norm!r} over all parameters: build another one"
            )

    def check_complete(self, missing: Sequence[str]) -> None:
        """Raise ValueError unless nothing is missing or the ball is a box.

        If one parameter stays where it is while the others step to the edge of a common ball, the
        point leaves the ball, except for the box of the max norm.
        """
        if missing and not isinstance(self.norm, Sign):
            raise ValueError(
                f"{missing[0]} has no gradient, and a step of the others could leave the common "
                f"ball of {self.norm}: give every parameter a gradient (zero if need be), or take "
                "it out of the optimizer"
            )
