"""Reductions over ranks."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from normball.parallel.groups import Members


def least_vote(vote: Tensor) -> Tensor:
    """Return the smallest `vote`, 0-d, of all ranks of the default process group, in int32."""
    import torch.distributed as dist

    votes = vote.to(torch.int32)
    dist.all_reduce(votes, dist.ReduceOp.MIN)
    return votes


def largest(values: Tensor, group: Any = None) -> Tensor:
    """Return the largest of every value over the ranks of a group, by default over all ranks."""
    import torch.distributed as dist

    found = values.clone()
    dist.all_reduce(found, dist.ReduceOp.MAX, group)
    return found


def add_up(shares: Sequence[Tensor], over: Sequence[Members]) -> list[Tensor]:
    """Return sums over ranks, by one reduction for every set of ranks.

    Args:
        shares: this rank's parts, float64; each has the same shape on all ranks that have it.
        over: for each share, the ranks that have it. All of them pass the same shares for a set.

    Returns:
        The sums, in the shapes of `shares`; on the device of the first.
    """
    if not shares:
        return []  # also where there is no torch.distributed
    import torch.distributed as dist

    found: dict[int, Tensor] = {}
    sets = {members.ranks: members for members in over}
    # In the same order on all ranks, so that no two ranks wait for each other.
    for ranks in sorted(sets):
        mine = [i for i, members in enumerate(over) if members.ranks == ranks]
        flat = torch.cat([shares[i].reshape(-1).to(shares[0].device) for i in mine])
        if len(ranks) > 1:
            dist.all_reduce(flat, group=sets[ranks].group)
        parts = torch.split(flat, [shares[i].numel() for i in mine])
        for i, part in zip(mine, parts, strict=True):
            found[i] = part.view(shares[i].shape)
    return [found[i] for i in range(len(shares))]
