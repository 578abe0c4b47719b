"""The ranks that together hold a tensor, and a process group over them."""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from torch import Tensor

from normball.parallel.shards import is_sharded


@dataclass(frozen=True)
class Members:
    """Ranks of the default process group, ascending, and the process group that they form."""

    ranks: tuple[int, ...]
    group: Any

    @property
    def all(self) -> bool:
        """Whether these are all ranks."""
        import torch.distributed as dist

        return len(self.ranks) == dist.get_world_size()

    @property
    def here(self) -> int:
        """The place of this rank among them."""
        import torch.distributed as dist

        return self.ranks.index(dist.get_rank())


# Groups over meshes of several dimensions, which torch does not make.
_made: dict[tuple[int, ...], Any] = {}


def everybody() -> Members:
    """Return all ranks."""
    import torch.distributed as dist

    return Members(tuple(range(dist.get_world_size())), dist.group.WORLD)


def members_of(x: Tensor) -> Members | None:
    """Return the ranks that hold a DTensor or a part of it; None for a plain tensor.

    Where its mesh has several dimensions and not all ranks, the first call makes a process group,
    for which it waits for the other members.
    """
    if not is_sharded(x):
        return None
    import torch.distributed as dist

    mesh: Any = x.device_mesh  # type: ignore[attr-defined]
    ranks = _ranks_of(mesh)
    if len(ranks) == dist.get_world_size():
        return Members(ranks, dist.group.WORLD)
    if mesh.ndim == 1:
        return Members(ranks, mesh.get_group())
    if not _alive(_made.get(ranks)):
        _made[ranks] = dist.new_group(list(ranks), use_local_synchronization=True)
    return Members(ranks, _made[ranks])


@lru_cache
def _ranks_of(mesh: Any) -> tuple[int, ...]:
    return tuple(sorted(mesh.mesh.flatten().tolist()))


def _alive(group: Any) -> bool:
    """Tell whether there is a group, and nobody has destroyed it."""
    import torch.distributed as dist

    try:
        return group is not None and bool(dist.get_process_group_ranks(group))
    except (KeyError, ValueError):
        return False
