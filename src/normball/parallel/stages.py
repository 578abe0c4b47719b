"""Ranks that hold different parameters: which rank counts a layer, and sums over all ranks."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor

from normball.parallel.groups import Members, among, everybody, holders_of
from normball.parallel.sums import add_up


class Stages:
    """The stages of a pipeline, which hold different parameters.

    Together they are all ranks of the default process group.

    Args:
        stages: a process group, or a mesh of one dimension, that has one rank of every stage.

    Raises:
        TypeError: it is neither.
        ValueError: such groups do not have one rank of every stage each.
    """

    def __init__(self, stages: Any) -> None:
        import torch.distributed as dist

        group = stages.get_group() if hasattr(stages, "get_group") else stages
        if not isinstance(group, dist.ProcessGroup):
            raise TypeError(
                f"stages={stages!r} must be a process group or a mesh of one dimension, such as "
                'mesh["pp"]'
            )
        across = tuple(dist.get_process_group_ranks(group))
        found: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(found, across)
        copies = sorted(set(found))
        if sorted(rank for copy in copies for rank in copy) != list(range(len(found))):
            raise ValueError(
                f"the ranks have the groups {copies} as stages=: every rank must be in one of "
                "them, with one rank of every other stage"
            )
        number = across.index(dist.get_rank())
        ranks = tuple(sorted(copy[number] for copy in copies))
        # Only the members take part.
        alone = len(ranks) == 1
        own = None if alone else dist.new_group(list(ranks), use_local_synchronization=True)
        self._shared = Members(ranks, own)
        # If there are several copies of the pipeline, only one is counted.
        self._counts = ranks[0] == dist.get_rank()

    def inside(self) -> AbstractContextManager[None]:
        """Return a context in which sums over ranks are those over this rank's stage."""
        return among(self._shared)

    def sums(
        self, rows: Sequence[Sequence[Tensor]], owners: Sequence[Tensor], like: Tensor
    ) -> list[Tensor]:
        """Return the sum of every row over all layers of all ranks, by one reduction.

        Args:
            rows: each of one 0-d value for each layer of this rank; all holders of a layer have it.
            owners: those layers.
            like: 0-d, which gives dtype and device.
        """
        common = [holders_of(x).all for x in owners]
        theirs, ours = (
            [sum((v.to(like) for v, c in zip(row, common, strict=True) if c is kind), 0 * like)
             for row in rows]
            for kind in (True, False)
        )  # fmt: skip
        mine = torch.stack(ours)
        (total,) = add_up([mine if self._counts else torch.zeros_like(mine)], [everybody()])
        return [there + here for there, here in zip(total, theirs, strict=True)]

    def __getstate__(self) -> None:
        raise TypeError("an optimizer with stages= cannot be copied: build another one")


def largest(value: Tensor) -> Tensor:
    """Return the largest of a 0-d value over all ranks."""
    import torch.distributed as dist

    found = value.clone()
    dist.all_reduce(found, dist.ReduceOp.MAX)
    return found
