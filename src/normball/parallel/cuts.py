"""Which part of a tensor lies on which rank."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from normball.parallel.groups import Members, everybody, holders_of
from normball.parallel.shards import is_sharded

Box = tuple[tuple[int, int], ...]
"""A part of a tensor: first index and length along every dimension."""


@dataclass(frozen=True)
class Cut:
    """How a tensor lies on the ranks that together hold one copy of it, its team.

    `boxes` says what each member holds; it is empty if this module cannot read the layout. `ranks`
    are the members in `group`, in the order of `boxes`; `here` is this rank's index among them.
    `dims` are the dimensions that are cut, none if every member holds the whole tensor. `holders`
    are the ranks of all copies. In sums over `holders`, only one copy counts, that of the lowest
    rank of `holders`: there `first` is True. If every member holds the whole tensor, `first` is
    True only on that lowest rank.

    With several `copies`, the members are the ranks of all of them, one copy after the other.
    """

    group: Any
    ranks: tuple[int, ...]
    boxes: tuple[Box, ...]
    here: int
    first: bool
    dims: frozenset[int]
    holders: Members
    copies: int = 1

    @property
    def slices(self) -> tuple[slice, ...]:
        """This rank's part, as an index of the whole tensor."""
        return slices_of(self.boxes[self.here])

    @property
    def team(self) -> range:
        """The indices of the members that hold the same copy as this rank."""
        size = len(self.ranks) // self.copies
        low = self.here // size * size
        return range(low, low + size)


def slices_of(box: Box) -> tuple[slice, ...]:
    """Return the index of a box in its tensor."""
    return tuple(slice(low, low + size) for low, size in box)


def cut_of(x: Tensor) -> Cut | None:
    """Return how `x` is cut over ranks; None for a tensor that this rank holds all of."""
    if not is_sharded(x):
        return None
    import torch.distributed as dist

    sharded: Any = x
    mesh, placements, along = sharded.device_mesh, sharded.placements, _along(sharded)
    if not along:
        return None
    holders = holders_of(x)
    group = mesh.get_group(along[0]) if len(along) == 1 else holders.group
    fixed = tuple(0 if i in along else c for i, c in enumerate(mesh.get_coordinate()))
    layout = tuple(_Split(placements[i].dim, _factor(placements[i]), mesh.size(i)) for i in along)
    whole = None if holders.all else holders.ranks
    ranks, here, first = _team(mesh, along, fixed, dist.get_rank(), whole)
    dims = frozenset(split.dim for split in layout)
    return Cut(group, ranks, _boxes(tuple(x.shape), layout), here, first, dims, holders)


def of_all_copies(cut: Cut, x: Tensor) -> Cut:
    """Return the cut of `x` whose members are the ranks of all copies, to share out work.

    It is `cut`, that of this rank's copy, if there is no other one, or if the mesh of `x` does not
    show all ranks that hold it.
    """
    import torch.distributed as dist

    sharded: Any = x
    members = _copy_by_copy(sharded.device_mesh, _along(sharded))
    count = len(members) // len(cut.ranks)
    if count == 1 or set(members) != set(cut.holders.ranks):
        return cut
    places = {rank: i for i, rank in enumerate(cut.holders.ranks)}
    return replace(
        cut,
        group=cut.holders.group,
        ranks=tuple(places[rank] for rank in members),
        boxes=cut.boxes * count,
        here=members.index(dist.get_rank()),
        copies=count,
    )


def _along(x: Any) -> tuple[int, ...]:
    """Return the dimensions of the mesh along which `x` is cut."""
    sizes = x.device_mesh.shape
    return tuple(i for i, p in enumerate(x.placements) if not p.is_replicate() and sizes[i] > 1)


@lru_cache
def _copy_by_copy(mesh: Any, along: tuple[int, ...]) -> tuple[int, ...]:
    """Return the ranks of a mesh: copy by copy, and each in the order of its team."""
    others = tuple(i for i in range(mesh.ndim) if i not in along)
    return tuple(mesh.mesh.permute(others + along).flatten().tolist())


def everyone(shape: torch.Size) -> Cut | None:
    """Return the cut of a tensor that all ranks hold; None for a single process."""
    import torch.distributed as dist

    if not dist.is_initialized() or dist.get_world_size() == 1:
        return None
    holders, here = everybody(), dist.get_rank()
    boxes = (tuple((0, size) for size in shape),) * len(holders.ranks)
    return Cut(holders.group, holders.ranks, boxes, here, here == 0, frozenset(), holders)


@dataclass(frozen=True)
class _Split:
    dim: int
    factor: int  # above 1: each of that many parts of the dimension is cut on its own
    count: int


def _factor(placement: Any) -> int:
    return getattr(placement, "split_factor", 1)


@lru_cache
def _team(
    mesh: Any,
    along: tuple[int, ...],
    fixed: tuple[int, ...],
    rank: int,
    holders: tuple[int, ...] | None,
) -> tuple[tuple[int, ...], int, bool]:
    """Return the ranks of a team in its group, this rank's index, and whether it has the lowest.

    The members lie along some dimensions of the mesh, the last one fastest; in the other dimensions
    they have the coordinates `fixed`. The group has the members along one dimension, or else all
    `holders`, or all ranks if that is None. No reference to a process group is kept.
    """
    import torch.distributed as dist

    index = tuple(slice(None) if i in along else c for i, c in enumerate(fixed))
    members = mesh.mesh[index].flatten().tolist()
    lowest = 0 if holders is None else holders[0]
    order: Sequence[int] = range(dist.get_world_size()) if holders is None else holders
    if len(along) == 1:
        order = dist.get_process_group_ranks(mesh.get_group(along[0]))
    places = {member: i for i, member in enumerate(order)}
    return tuple(places[member] for member in members), members.index(rank), lowest in members


def boxes_along(shape: tuple[int, ...], dim: int, count: int) -> tuple[Box, ...]:
    """Return the boxes of a tensor that `count` members cut along one dimension, evenly."""
    return _boxes(shape, (_Split(dim, 1, count),))


@lru_cache(maxsize=4096)
def _boxes(shape: tuple[int, ...], layout: tuple[_Split, ...]) -> tuple[Box, ...]:
    """Return the box of every member, as torch.chunk cuts, one mesh dimension after the other.

    A strided split comes after the splits whose parts it cuts. Layouts with more strides give no
    boxes.
    """
    strided = [split for split in layout if split.factor > 1]
    for split in strided:
        inner = [s.count for s in layout if s.dim == split.dim and s is not split]
        if len(strided) > 1 or inner != [split.factor]:
            return ()
    order = sorted(range(len(layout)), key=lambda i: layout[i].factor > 1)
    boxes = []
    for place in itertools.product(*(range(split.count) for split in layout)):
        box = [(0, size) for size in shape]
        for i in order:
            low, size = box[layout[i].dim]
            step = -(-size // layout[i].count)
            start = min(place[i] * step, size)
            box[layout[i].dim] = (low + start, min(step, size - start))
        boxes.append(tuple(box))
    return tuple(boxes)
