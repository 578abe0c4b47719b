"""Ranks that share parameters, and the process groups over them."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
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
        """The index of this rank among them."""
        import torch.distributed as dist

        return self.ranks.index(dist.get_rank())


_among: ContextVar[Members | None] = ContextVar("among", default=None)


@contextmanager
def among(members: Members) -> Iterator[None]:
    """Treat these ranks, instead of all, as those that share this rank's parameters."""
    token = _among.set(members)
    try:
        yield
    finally:
        _among.reset(token)


def alone() -> bool:
    """Tell whether there are no other ranks."""
    import torch.distributed as dist

    return not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1)


def everybody() -> Members:
    """Return all ranks."""
    import torch.distributed as dist

    return Members(_first(dist.get_world_size()), dist.group.WORLD)


def holders_of(x: Tensor) -> Members:
    """Return the ranks that hold `x`, or a part or a copy of it.

    These are the ranks that share this rank's parameters, by default all ranks. A DTensor whose
    mesh has all ranks is held by all.

    Raises:
        ValueError: the mesh of a DTensor has ranks of several stages, but not all ranks.
    """
    import torch.distributed as dist

    shared = _among.get()
    if shared is None:
        return everybody()
    if not is_sharded(x):
        return shared
    mesh: Any = x.device_mesh  # type: ignore[attr-defined]
    ranks = _ranks_of(mesh)
    if set(ranks) <= set(shared.ranks):
        return shared
    if len(ranks) < dist.get_world_size():
        raise ValueError(
            f"a parameter of shape {tuple(x.shape)} lies on the ranks {list(ranks)}: with stages= "
            f"its mesh must stay within one stage, here {list(shared.ranks)}, or have all ranks"
        )
    return everybody()


@lru_cache
def _first(count: int) -> tuple[int, ...]:
    return tuple(range(count))


@lru_cache
def _ranks_of(mesh: Any) -> tuple[int, ...]:
    return tuple(sorted(mesh.mesh.flatten().tolist()))
