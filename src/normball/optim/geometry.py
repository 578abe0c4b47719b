"""How the parameters of an optimizer form one norm ball."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor

from normball._numeric import as_working, inner, saturate
from normball.norms import Norm, Sign, VectorNorm
from normball.optim.blocks import Block, Bundle, bundles_of


class Geometry(ABC):
    """A norm over all blocks together, and its minimiser."""

    @abstractmethod
    def bundles(self, blocks: Sequence[Block]) -> list[Bundle]:
        """Return the blocks as a step takes them."""

    @abstractmethod
    def minimise(
        self, bundles: Sequence[Bundle], estimates: Iterable[Tensor]
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield for every bundle its part of the minimiser over the unit ball, new tensors.

        With it goes, 0-d, the part of the dual norm that belongs to the bundle: their sum, each
        weighted with its radius, is the dual norm of the whole.
        """

    @abstractmethod
    def ratios(self, bundles: Sequence[Bundle], points: Iterable[Tensor]) -> list[Tensor]:
        """Return the largest norm of points over their radius, 0-d: one per bundle or ball."""

    @abstractmethod
    def balls(self, blocks: Sequence[Block]) -> list[Sequence[Block]]:
        """Return which blocks share a ball, in the order of `ratios` of single blocks."""

    def check_count(self, count: int) -> None:  # noqa: B027 (layers: as many as there are)
        """Raise ValueError if the norm cannot take that many parameters."""

    def check_complete(self, missing: Sequence[str]) -> None:  # noqa: B027 (a ball each: no need)
        """Raise ValueError if a constrained step without these parameters can leave the ball."""


class Layers(Geometry):
    """The product norm: every block has its own norm and ball, and the dual norms add up."""

    def bundles(self, blocks: Sequence[Block]) -> list[Bundle]:
        """Return small equal layers together."""
        return bundles_of(blocks)

    def minimise(
        self, bundles: Sequence[Bundle], estimates: Iterable[Tensor]
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield `lmo_l(d_l)` and `||d_l||_l*`, one bundle after the other."""
        for bundle, d in zip(bundles, estimates, strict=True):
            norm = bundle.first.norm
            yield norm.stacked_lmo_and_dual(d) if bundle.stacked else norm.lmo_and_dual(d)

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

    def bundles(self, blocks: Sequence[Block]) -> list[Bundle]:
        """Return every block alone; the norm takes them all at once."""
        return [Bundle([block]) for block in blocks]

    def minimise(
        self,
        bundles: Sequence[Bundle],  # noqa: ARG002
        estimates: Iterable[Tensor],
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the blocks of `lmo(d)`, and `-<d_l, lmo_l>`, whose sum is the dual norm."""
        if not isinstance(self.norm, VectorNorm):
            yield from (self.norm.lmo_and_dual(d) for d in estimates)
            return
        parts = list(estimates)
        lmos, dual = self.norm.joint_lmo_and_dual(parts)
        if len(parts) == 1:
            yield lmos[0], dual
            return
        for d, lmo in zip(parts, lmos, strict=True):
            yield lmo, saturate(-inner(as_working(d), as_working(lmo)))

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
        """Raise ValueError for several parameters under a norm of a single tensor."""
        alone = not isinstance(self.norm, VectorNorm) or self.norm == Sign(normalized=True)
        if alone and count > 1:
            raise ValueError(
                f"{self.norm} is a norm of a single tensor, got {count}: use a vector norm such "
                "as Euclidean() over all, or ClippedScion with a norm for every layer"
            )

    def check_complete(self, missing: Sequence[str]) -> None:
        """Raise ValueError unless nothing is missing or the ball is a box.

        A parameter that stays where it is while the others step to the edge of a common ball takes
        the whole outside, but for the box of the max norm.
        """
        if missing and not isinstance(self.norm, Sign):
            raise ValueError(
                f"{missing[0]} has no gradient, and a step of the others could leave the common "
                f"ball of {self.norm}: give every parameter a gradient (zero if need be), or take "
                "it out of the optimizer"
            )


def scalar(x: Tensor) -> Tensor:
    """Return figures of a step in float64, if their device has it."""
    return x if x.device.type == "mps" else x.double()


def gather(scalars: Sequence[Tensor]) -> Tensor:
    """Return 0-d tensors of any device as one vector on the device of the first."""
    device = scalars[0].device
    return scalar(torch.stack([x.to(device) for x in scalars]))
