"""Reductions over all ranks."""

from collections.abc import Sequence

import torch
from torch import Tensor


def agree(flag: Tensor) -> Tensor:
    """Return whether `flag` (0-d bool) holds on every rank of the default process group."""
    import torch.distributed as dist

    votes = flag.to(torch.int32)
    dist.all_reduce(votes, dist.ReduceOp.MIN)
    return votes.bool()


def add_up(shares: Sequence[Tensor]) -> list[Tensor]:
    """Return the sums over all ranks of tensors that have one shape everywhere, by one reduction.

    Args:
        shares: this rank's, float64; those of the default process group are added.

    Returns:
        The sums, in the shapes of `shares`; on the device of the first.
    """
    if not shares:
        return []
    import torch.distributed as dist

    flat = torch.cat([share.reshape(-1).to(shares[0].device) for share in shares])
    dist.all_reduce(flat)
    parts = torch.split(flat, [share.numel() for share in shares])
    return [part.view(share.shape) for part, share in zip(parts, shares, strict=True)]


def rank() -> int:
    """Return this rank in the default process group."""
    import torch.distributed as dist

    return dist.get_rank()


def ranks() -> int:
    """Return how many ranks the default process group has."""
    import torch.distributed as dist

    return dist.get_world_size()
