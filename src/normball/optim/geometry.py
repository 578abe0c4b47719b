"""How the parameters of an optimizer form one norm ball."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor

from normball import parallel
from normball._numeric import as_working, inner, saturate
from normball._scalar import Scalar
from normball.norms import Norm, Sign, VectorNorm
from normball.optim import terms
from normball.optim.blocks import Block, Bundle, bundles_of
from normball.optim.estimate import Estimates
from normball.optim.terms import Owned, Pool, Pooled, Term


class Geometry(ABC):
    """A norm over all blocks together, and its minimiser."""

    split = False
    """Whether ranks that hold the same parameters divide the costly minimisers among them."""
    comm_dtype: torch.dtype | None = None
    """The dtype in which ranks exchange matrices; None for their own."""

    @abstractmethod
    def bundles(self, blocks: Sequence[Block], tight: bool) -> list[Bundle]:
        """Return the blocks in the bundles that a step works on; `tight` if memory matters most."""

    @abstractmethod
    def minimise(
        self, bundles: Sequence[Bundle], estimates: Sequence[Tensor]
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield for every bundle its part of the minimiser over the unit ball, new tensors.

        Each comes with the bundle's part of the dual norm, 0-d. The sum of these parts, each
        multiplied by its radius, is the dual norm of the whole.
        """

    @abstractmethod
    def terms(
        self,
        bundles: Sequence[Bundle],
        estimates: Sequence[Tensor],
        constrained: bool,
        corner: bool,
    ) -> Iterator[tuple[int, Term]]:
        """Yield the number of every bundle once, and its term.

        Args:
            bundles: those of this step.
            estimates: `d` of each, this rank's parts.
            constrained: whether to multiply updates by their radius, and compute `<d, x>` too.
            corner: whether to compute the corner of a term, if `corners` reads it from there.
        """

    @abstractmethod
    def corners(self, bundles: Sequence[Bundle], terms: Sequence[Term]) -> list[Scalar]:
        """Return the values of `||x - update|| / radius`, over all ranks."""

    @abstractmethod
    def ratios(self, bundles: Sequence[Bundle], points: Iterable[Tensor]) -> list[Tensor]:
        """Return the largest norm of points divided by its radius, 0-d: one per bundle or ball."""

    @abstractmethod
    def balls(self, blocks: Sequence[Block]) -> list[Sequence[Block]]:
        """Return which blocks share a ball, in the order of `ratios` of single blocks."""

    def check_count(self, count: int) -> None:  # noqa: B027 (layers: as many as there are)
        """Raise ValueError if the norm cannot take that many parameters."""

    def check_norm(self, norm: Norm) -> None:  # noqa: B027 (layers: each its own)
        """Raise ValueError for a norm in a group that the step would not use."""

    def check_complete(self, missing: Sequence[str]) -> None:  # noqa: B027 (a ball each: no need)
        """Raise ValueError if a constrained step without these parameters can leave the ball."""


class Layers(Geometry):
    """The product norm: every block has its own norm and ball, and the dual norms add up.

    With `split`, ranks that hold the same parameters, or copies of the same shards, divide the
    costly minimisers among them.
    Ranks exchange matrices in `comm_dtype`; None is that of the momentum.
    """

    def __init__(self, split: bool = False, comm_dtype: torch.dtype | None = None) -> None:
        if comm_dtype is not None and not comm_dtype.is_floating_point:
            raise ValueError(f"comm_dtype={comm_dtype} must be a floating dtype")
        self.split = split
        self.comm_dtype = comm_dtype

    def bundles(self, blocks: Sequence[Block], tight: bool) -> list[Bundle]:
        """Return bundles: small equal layers together, large ones alone."""
        return bundles_of(blocks, tight)

    def minimise(
        self, bundles: Sequence[Bundle], estimates: Sequence[Tensor]
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield `lmo_l(d_l)` and `||d_l||_l*`, one bundle after the other."""
        for bundle, d in zip(bundles, estimates, strict=True):
            norm = bundle.first.norm
            yield norm.stacked_lmo_and_dual(d) if bundle.stacked else norm.lmo_and_dual(d)

    def terms(
        self,
        bundles: Sequence[Bundle],
        estimates: Sequence[Tensor],
        constrained: bool,
        corner: bool,
    ) -> Iterator[tuple[int, Term]]:
        """Yield the layers that each rank computes for itself, then those of the owners.

        Large layers come first: their workspace is then not beside the updates of all others.
        """
        owned: list[Owned] = []
        sizes = [bundle.first.owner.numel() * len(bundle.blocks) for bundle in bundles]
        for number in sorted(range(len(bundles)), key=sizes.__getitem__, reverse=True):
            bundle = bundles[number]
            # In its own call, so that no estimate stays in memory while the next is computed.
            found = None if constrained else self._by_rows(number, bundle, estimates)
            if found is None:
                found = self._term(number, bundle, estimates[number], constrained, corner, owned)
            if found is not None:
                yield number, found
        yield from terms.divided(owned, constrained, corner, self.comm_dtype)

    @staticmethod
    def _by_rows(number: int, bundle: Bundle, estimates: Sequence[Tensor]) -> Term | None:
        """Return the term of a layer that needs no memory for its update; None for the others."""
        first = bundle.first
        if bundle.stacked or first.sharded or bundle.room is not None:
            return None
        if not isinstance(estimates, Estimates) or not terms.ByRows.fits(first.norm, first.param):
            return None
        return terms.ByRows(bundle, estimates.by_rows(number))

    def _term(
        self,
        number: int,
        bundle: Bundle,
        d: Tensor,
        constrained: bool,
        corner: bool,
        owned: list[Owned],
    ) -> Term | None:
        """Return the term of a bundle; None if an owner computes it, which is added to `owned`."""
        first = bundle.first
        norm, shape = first.norm, first.owner.shape
        radius = first.radius if constrained else 1.0
        x = bundle.join(bundle.params).to(d.dtype) if constrained else None
        if corner and x is not None and bundle.active is not None:
            x = x * bundle.active  # a part that rests does not move to the corner
        cut = parallel.cut_of(first.owner)
        if cut is not None and cut.boxes:
            lines = norm.lines(shape)
            if not cut.dims & lines[0] if lines else cut.dims <= norm.free(shape):
                return terms.of_piece(norm, cut, shape, d, x, radius, corner)
            if lines:
                return terms.Lines(norm, cut, shape, d, x, radius, corner)
            if self.split:
                cut = parallel.of_all_copies(cut, first.owner)
            owned.append((number, bundle, cut, d, x))
            return None
        if cut is None and self.split and not bundle.stacked and norm.lines(shape) is None:
            cut = parallel.everyone(shape)
            if cut is not None:
                owned.append((number, bundle, cut, d, x))
                return None
        return self._whole(bundle, bundle.whole(d), x, radius, corner)

    def _whole(
        self, bundle: Bundle, d: Tensor, x: Tensor | None, radius: float, corner: bool
    ) -> Term:
        """Return the term of a layer of which this rank holds all, or gathers all."""
        norm, room = bundle.first.norm, bundle.room
        room = d if room is None and bundle.fresh and not bundle.stacked else room
        product = ratio = None
        if x is not None:
            x = bundle.whole(x)
            product = inner(as_working(d), as_working(x))
        saves = type(norm).lmo_and_dual_into is not Norm.lmo_and_dual_into
        if room is not None and room.shape == d.shape and saves:
            lmo, dual = norm.lmo_and_dual_into(d, room)
        else:
            ((lmo, dual),) = self.minimise([bundle], [d])
        parts = None
        if bundle.groups is not None:
            parts = (as_working(d) * lmo).reshape(len(d), -1).sum(1)
        if x is not None:
            lmo.mul_(radius)
            ratio = self.ratios([bundle], [x - lmo])[0] if corner else None
        return terms.Known(bundle.part(lmo), dual, product, ratio, parts)

    def corners(self, bundles: Sequence[Bundle], terms: Sequence[Term]) -> list[Scalar]:  # noqa: ARG002
        """Return the corner of every layer."""
        return [term.corner for term in terms if term.corner is not None]

    def ratios(self, bundles: Sequence[Bundle], points: Iterable[Tensor]) -> list[Tensor]:
        """Return `||w_l||_l / r_l`, the largest of every bundle."""
        ratios = []
        for bundle, x in zip(bundles, points, strict=True):
            norm, radius = bundle.first.norm, bundle.first.radius
            ratios.append((norm.stacked_norm(x) if bundle.stacked else norm.norm(x)) / radius)
        return ratios

    def balls(self, blocks: Sequence[Block]) -> list[Sequence[Block]]:
        """Return every block on its own."""
        return [[block] for block in blocks]


class Joint(Geometry):
    """One norm over the concatenation of all blocks, or over a single matrix."""

    def __init__(self, norm: Norm) -> None:
        self.norm = norm

    def bundles(self, blocks: Sequence[Block], tight: bool) -> list[Bundle]:  # noqa: ARG002
        """Return every block alone; the norm works on all of them together."""
        return [Bundle([block]) for block in blocks]

    def minimise(
        self,
        bundles: Sequence[Bundle],  # noqa: ARG002
        estimates: Sequence[Tensor],
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the blocks of `lmo(d)`, and `-<d_l, lmo_l>`, whose sum is the dual norm."""
        if not isinstance(self.norm, VectorNorm):
            yield from (self.norm.lmo_and_dual(d) for d in estimates)
            return
        lmos, dual = self.norm.joint_lmo_and_dual(estimates)
        if len(estimates) == 1:
            yield lmos[0], dual
            return
        for d, lmo in zip(estimates, lmos, strict=True):
            yield lmo, saturate(-inner(as_working(d), as_working(lmo)))

    def terms(
        self,
        bundles: Sequence[Bundle],
        estimates: Sequence[Tensor],
        constrained: bool,
        corner: bool,
    ) -> Iterator[tuple[int, Term]]:
        """Yield the blocks one after the other.

        Sharded blocks under a Euclidean norm or a box stay where they are, and so does a single
        tensor; under another vector norm they are gathered on every rank.
        """
        if self._apart(bundles):
            yield from Layers().terms(bundles, estimates, constrained, corner)
            return
        pool = self._pool(bundles)
        if pool is not None:
            for number, (bundle, d) in enumerate(zip(bundles, estimates, strict=True)):
                cut = parallel.cut_of(bundle.first.owner)
                holders = cut.holders if cut is not None else parallel.everybody()
                reports = cut.first if cut is not None else holders.here == 0
                x = bundle.first.param.to(d.dtype) if constrained else None
                radius = bundle.first.radius if constrained else 1.0
                yield number, Pooled(pool, holders, reports, d, x, radius)
            return
        wholes = estimates
        if self._cut(bundles):
            wholes = [b.whole(d) for b, d in zip(bundles, estimates, strict=True)]
        for number, (lmo, dual) in enumerate(self.minimise(bundles, wholes)):
            bundle, product = bundles[number], None
            if constrained:
                lmo.mul_(bundle.first.radius)
                d = wholes[number]
                x = bundle.whole(bundle.join(bundle.params)).to(d.dtype)
                product = inner(as_working(d), as_working(x))
            yield number, terms.Known(bundle.part(lmo), dual, product)

    def _apart(self, bundles: Sequence[Bundle]) -> bool:
        """Tell whether a block is sharded, and blocks have own balls or there is only one."""
        alone = not isinstance(self.norm, VectorNorm) or isinstance(self.norm, Sign)
        return alone and self._cut(bundles)

    def _pool(self, bundles: Sequence[Bundle]) -> Pool | None:
        """Return the sum of squares for sharded blocks; None if squares do not give the norm."""
        size = sum(bundle.first.owner.numel() for bundle in bundles)
        lines = self.norm.lines(torch.Size([size])) if self._cut(bundles) else None
        return Pool(lines[1]) if lines and lines[0] else None

    @staticmethod
    def _cut(bundles: Sequence[Bundle]) -> bool:
        return any(parallel.cut_of(bundle.first.owner) is not None for bundle in bundles)

    def corners(self, bundles: Sequence[Bundle], terms: Sequence[Term]) -> list[Scalar]:
        """Return the corner of all blocks together."""
        if self._cut(bundles) and terms[0].corner is not None:
            return [term.corner for term in terms if term.corner is not None]
        points = (
            b.whole(b.join(b.params).to(t.update.dtype) - t.update)
            for b, t in zip(bundles, terms, strict=True)
        )
        return list(self.ratios(bundles, points))

    def ratios(self, bundles: Sequence[Bundle], points: Iterable[Tensor]) -> list[Tensor]:
        """Return `||w|| / beta` of all blocks together."""
        parts = list(points)
        if isinstance(self.norm, VectorNorm):
            return [self.norm.joint_norm(parts) / bundles[0].first.radius]
        return [self.norm.norm(parts[0]) / bundles[0].first.radius]

    def balls(self, blocks: Sequence[Block]) -> list[Sequence[Block]]:
        """Return all blocks as one."""
        return [blocks]

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
