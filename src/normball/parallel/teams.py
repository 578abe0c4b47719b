"""Minimisers that several ranks compute together, from a sum of products of their parts.

A matrix is cut along a longer side over a team of ranks. Each makes a small square term out of its
part, its Gram matrix. One of them, the owner, adds the terms up, and makes a square root out of the
sum; with it every rank turns its part into that of the minimiser.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from normball.parallel import division
from normball.parallel.cuts import Box, Cut, boxes_along, slices_of
from normball.parallel.division import share_out, swap

Boxes = tuple[Box, ...]
_NOTHING: Box = ((0, 0), (0, 0))


class Together(ABC):
    """A minimiser of a matrix that ranks compute together.

    `part` is this rank's part of the matrix by `cut`; `flops` is the cost of all. `dtype` is that
    of terms and roots.
    """

    cut: Cut
    shape: torch.Size
    part: Tensor
    flops: float
    dtype: torch.dtype

    @abstractmethod
    def term(self, part: Tensor, dim: int) -> Tensor:
        """Return the Gram matrix of a part, cut along `dim`: of the size of the other dimension."""

    @abstractmethod
    def root(self, total: Tensor) -> Tensor:
        """Return the square matrix that `minimiser` needs; on the owner alone."""

    @abstractmethod
    def minimiser(self, part: Tensor, root: Tensor, dim: int) -> Tensor:
        """Return the part of the minimiser, of the shape and dtype of `part`."""


@dataclass(frozen=True)
class _Task:
    """One matrix and its team.

    The boxes are those of all members: before and after, and while the team works.
    """

    number: int
    job: Together
    team: range
    owner: int
    dim: int
    before: Boxes
    work: Boxes

    @property
    def moves(self) -> bool:
        """Whether parts have to be exchanged."""
        return self.work is not self.job.cut.boxes

    @property
    def square(self) -> Box:
        """The box of a term."""
        size = self.job.shape[1 - self.dim]
        return ((0, size), (0, size))


def together(
    jobs: Sequence[Together], count: int, comm_dtype: torch.dtype | None = None
) -> Iterator[tuple[int, Tensor]]:
    """Compute every job on `count` ranks of its team, and yield this rank's part of each result.

    The work goes in rounds, with at least one matrix for every rank where there are so many. In a
    round there are four exchanges at most: parts of matrices that are not cut along a longer side
    over the team alone, terms, roots, and parts of the results.

    Args:
        jobs: the same on every rank.
        count: how many ranks compute a matrix: all that hold a copy of it if they are fewer, and
            more where it does not divide them, so that every rank is in a team.
        comm_dtype: the dtype in which parts of matrices are sent; None for their own.

    Yields:
        The number of a job and this rank's part of the minimiser, once each, in no special order.
    """
    alike: dict[Hashable, list[int]] = {}
    for i, job in enumerate(jobs):
        cut = job.cut
        key = (cut.group, cut.ranks, cut.copies, job.part.dtype, job.part.device)
        alike.setdefault(key, []).append(i)
    for chosen in alike.values():
        plan = _plan([(i, jobs[i]) for i in chosen], count)
        arriving = _arrive(plan[0], comm_dtype)
        leaving: Callable[[], Iterator[tuple[int, Tensor]]] | None = None
        for number, tasks in enumerate(plan):
            parts = arriving()
            if number + 1 < len(plan):
                arriving = _arrive(plan[number + 1], comm_dtype)
            sent = _leave(tasks, _minimisers(tasks, parts))
            del parts
            if leaving is not None:
                yield from leaving()
            leaving = sent
        if leaving is not None:
            yield from leaving()


def _plan(jobs: list[tuple[int, Together]], count: int) -> list[list[_Task]]:
    """Share matrices out among teams, and say which a round has: the same on all ranks."""
    cut = jobs[0][1].cut
    size = len(cut.team)
    teams = max(1, size // count)
    members = [
        range(copy * size + team * size // teams, copy * size + (team + 1) * size // teams)
        for copy in range(cut.copies)
        for team in range(teams)
    ]
    shares = share_out([job.flops for _, job in jobs], len(members))
    queues = [
        _rounds([jobs[k] for k in share], team) for share, team in zip(shares, members, strict=True)
    ]
    return [
        [task for queue in queues if number < len(queue) for task in queue[number]]
        for number in range(max(map(len, queues)))
    ]


def _rounds(jobs: list[tuple[int, Together]], team: range) -> list[list[_Task]]:
    """Return the tasks of a team by rounds: one for every rank, or more if they are small."""
    rounds: list[list[tuple[int, Together]]] = []
    filled = 0
    for one in jobs:
        entries = one[1].shape.numel()
        if not rounds or (
            len(rounds[-1]) >= len(team) and filled + entries > division.BUCKET * len(team)
        ):
            rounds.append([])
            filled = 0
        rounds[-1].append(one)
        filled += entries
    found = []
    for some in rounds:
        owners = share_out([float(min(job.shape)) ** 3 for _, job in some], len(team))
        of = {k: team[rank] for rank, share in enumerate(owners) for k in share}
        found.append([_task(i, job, team, of[k]) for k, (i, job) in enumerate(some)])
    return found


def _task(number: int, job: Together, team: range, owner: int) -> _Task:
    cut, shape = job.cut, job.shape
    longest = [dim for dim in (0, 1) if shape[dim] == max(shape)]
    for dim in longest:
        if cut.dims == {dim} and len(team) == len(cut.boxes):
            return _Task(number, job, team, owner, dim, cut.boxes, cut.boxes)
    dim, size = longest[0], len(cut.team)
    copy = range(team[0] // size * size, team[0] // size * size + size)
    parts = boxes_along(tuple(shape), dim, len(team))
    before = tuple(box if m in copy else _NOTHING for m, box in enumerate(cut.boxes))
    work = tuple(parts[m - team[0]] if m in team else _NOTHING for m in range(len(cut.boxes)))
    return _Task(number, job, team, owner, dim, before, work)


def _arrive(tasks: list[_Task], comm_dtype: torch.dtype | None) -> Callable[[], list[Tensor]]:
    """Start sending parts to the teams; return a function that waits, and gives this rank's."""
    moving = [task for task in tasks if task.moves]
    sent_as = comm_dtype or tasks[0].job.part.dtype
    parts = [task.job.part.to(sent_as) for task in moving]
    wait = _move(parts, [task.before for task in moving], [task.work for task in moving], tasks)

    def arrived() -> list[Tensor]:
        moved = iter(wait())
        return [next(moved) if task.moves else task.job.part for task in tasks]

    return arrived


def _minimisers(tasks: list[_Task], parts: list[Tensor]) -> list[Tensor]:
    """Return the parts of the minimisers where the team works, of which others have nothing."""
    cut, like = tasks[0].job.cut, parts[0].new_empty(0, dtype=tasks[0].job.dtype)
    here, members = cut.here, range(len(cut.boxes))
    own = [k for k, task in enumerate(tasks) if here in task.team]
    owned = [task for task in tasks if task.owner == here]
    pieces: list[list[Tensor]] = [[] for _ in members]
    for k in own:
        pieces[tasks[k].owner].append(tasks[k].job.term(parts[k].to(like.dtype), tasks[k].dim))
    boxes = [[task.square for task in owned if m in task.team] for m in members]
    arrived = swap(pieces, boxes, cut, like)()
    del pieces
    # In one order, whoever the owner is.
    terms = {m: iter(arrived[m]) for m in members}
    roots = []
    for task in owned:
        total = next(terms[task.team[0]])
        for m in task.team[1:]:
            total = total.add_(next(terms[m]))
        roots.append(task.job.root(total))
    pieces = [[r for r, task in zip(roots, owned, strict=True) if m in task.team] for m in members]
    mine = [tasks[k] for k in own]
    boxes = [[task.square for task in mine if task.owner == m] for m in members]
    arrived = swap(pieces, boxes, cut, like)()
    found = {m: iter(arrived[m]) for m in members}
    results = list(parts)
    for k in own:
        task, part = tasks[k], parts[k]
        root = next(found[task.owner])
        results[k] = task.job.minimiser(part.to(like.dtype), root, task.dim).to(part.dtype)
    return results


def _leave(tasks: list[_Task], results: list[Tensor]) -> Callable[[], Iterator[tuple[int, Tensor]]]:
    """Start sending results; return a function that waits, and yields this rank's parts of all."""
    moving = [task for task in tasks if task.moves]
    sent = [result for task, result in zip(tasks, results, strict=True) if task.moves]
    wait = _move(sent, [t.work for t in moving], [t.job.cut.boxes for t in moving], tasks)

    def left() -> Iterator[tuple[int, Tensor]]:
        moved = iter(wait())
        for task, result in zip(tasks, results, strict=True):
            yield task.number, (next(moved) if task.moves else result).to(task.job.part.dtype)

    return left


def _move(
    parts: list[Tensor], old: list[Boxes], new: list[Boxes], tasks: list[_Task]
) -> Callable[[], list[Tensor]]:
    """Start moving tensors from one cut to another; return a function that gives the new parts."""
    if not parts:
        return list
    cut, like = tasks[0].job.cut, parts[0].new_empty(0)
    here, members = cut.here, range(len(cut.boxes))
    pieces = [
        [
            x[_inside(_common(a[here], b[m]), a[here])]
            for x, a, b in zip(parts, old, new, strict=True)
        ]
        for m in members
    ]
    boxes = [[_common(a[m], b[here]) for a, b in zip(old, new, strict=True)] for m in members]
    wait = swap(pieces, boxes, cut, like)

    def moved() -> list[Tensor]:
        arrived = wait()
        found = []
        for k, b in enumerate(new):
            out = like.new_empty([size for _, size in b[here]])
            for m in members:
                out[_inside(boxes[m][k], b[here])] = arrived[m][k]
            found.append(out)
        return found

    return moved


def _common(a: Box, b: Box) -> Box:
    """Return what two boxes have in common; of size 0 somewhere if that is nothing."""
    found = []
    for (low, size), (other, its_size) in zip(a, b, strict=True):
        start = max(low, other)
        found.append((start, max(0, min(low + size, other + its_size) - start)))
    return tuple(found)


def _inside(box: Box, outer: Box) -> tuple[slice, ...]:
    """Return the index of a box in the tensor that has the entries of `outer`."""
    return slices_of(tuple((low - o, size) for (low, size), (o, _) in zip(box, outer, strict=True)))
