"""Ranks that hold different parameters: who counts what, and sums over all of them."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from normball.parallel.groups import everybody, members_of
from normball.parallel.sums import add_up


class Stages:
    """The stages of a pipeline, which hold different parameters.

    A layer is counted by one rank, the lowest of those that hold it: of its mesh, if it is a
    DTensor; else of this rank's stage.

    Args:
        stages: a process group, or a mesh of one dimension, that has one rank of every stage.

    Raises:
        TypeError: it is neither.
    """

    def __init__(self, stages: Any) -> None:
        import torch.distributed as dist

        group = stages.get_group() if hasattr(stages, "get_group") else stages
        if not isinstance(group, dist.ProcessGroup):
            raise TypeError(
                f"stages={stages!r} must be a process group or a mesh of one dimension, such as "
                'mesh["pp"]'
            )
        # Of all copies of the pipeline, the one that rank 0 is in.
        self._first = 0 in dist.get_process_group_ranks(group)

    def counts(self, x: Tensor) -> bool | None:
        """Tell whether this rank is the one that counts `x`; None where all ranks hold it."""
        members = members_of(x)
        if members is None:
            return self._first
        return None if members.all else members.here == 0

    def sums(
        self, rows: Sequence[Sequence[Tensor]], owners: Sequence[Tensor], like: Tensor
    ) -> list[Tensor]:
        """Return the sum of every row over all layers of all ranks, by one reduction.

        Args:
            rows: of one 0-d value for each layer of this rank, known to all who hold the layer.
            owners: those layers.
            like: 0-d, which gives dtype and device.
        """
        counts = [self.counts(x) for x in owners]
        mine, common = (
            [sum((v.to(like) for v, c in zip(row, counts, strict=True) if c is kind), 0 * like)
             for row in rows]
            for kind in (True, None)
        )  # fmt: skip
        (total,) = add_up([torch.stack(mine)], [everybody()])
        return [there + here for there, here in zip(total, common, strict=True)]


def check_held_by_all(name: str, x: Tensor) -> None:
    """Raise ValueError for a DTensor that only some ranks hold, which needs `Stages`."""
    members = members_of(x)
    if members is not None and not members.all:
        raise ValueError(
            f"{name} lies on the ranks {list(members.ranks)} alone: tell the optimizer which "
            'ranks hold different parameters, for instance stages=mesh["pp"]'
        )


def largest(value: Tensor) -> Tensor:
    """Return the largest of a 0-d value over all ranks."""
    import torch.distributed as dist

    found = value.clone()
    dist.all_reduce(found, dist.ReduceOp.MAX)
    return found
