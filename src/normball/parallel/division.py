"""Minimisers divided among ranks: one rank has each whole matrix, and only a few at a time.

If the members hold several copies, the owner takes the parts of its own copy, and sends the result
to the ranks of all.
"""

import heapq
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from normball.parallel.cuts import Box, Cut, slices_of

# Matrices sent together have at most this many entries, or it is a single matrix.
BUCKET = 2**20


def share_out(costs: Sequence[float], count: int) -> list[list[int]]:
    """Assign every job to one of `count` workers: the costliest first, to the least busy worker.

    Returns:
        For every worker the indices of its jobs, costliest first. The same on all ranks.
    """
    shares: list[list[int]] = [[] for _ in range(count)]
    loads = [(0.0, worker) for worker in range(count)]
    for i in sorted(range(len(costs)), key=lambda i: -costs[i]):
        load, worker = heapq.heappop(loads)
        shares[worker].append(i)
        heapq.heappush(loads, (load + costs[i], worker))
    return shares


@dataclass(frozen=True)
class Job:
    """A minimiser to be computed by one member of a team, from whole tensors of one dtype.

    `parts` are this rank's parts of them, needed until the result is ready; `flops` is the cost.
    """

    cut: Cut
    shape: torch.Size
    parts: list[Tensor]
    flops: float


def divide(
    jobs: Sequence[Job],
    minimise: Callable[[int, list[Tensor]], Tensor],
    comm_dtype: torch.dtype | None = None,
) -> Iterator[tuple[int, Tensor]]:
    """Compute every job on one rank of its team, and yield this rank's part of each result.

    The work goes in rounds. In each, a member computes the minimisers of the matrices that it owns
    and sends the results, while it receives the parts of its next matrices. So it holds one whole
    matrix being computed and one being received, or for each several small ones of at most `2**20`
    entries together.

    Args:
        jobs: the same on every rank.
        minimise: called on the owner with the number of a job and its whole tensors; returns a
            tensor of the job's shape, dtype and device.
        comm_dtype: the dtype in which parts and results are sent; None for their own. What a rank
            keeps is rounded as well, so that the result does not depend on the number of ranks.

    Yields:
        The number of a job and this rank's part of the result, once each, in no special order.
    """
    teams: dict[Hashable, list[int]] = {}
    for i, job in enumerate(jobs):
        first, cut = job.parts[0], job.cut
        key = (cut.group, cut.ranks, cut.copies, bool(cut.dims), first.dtype, first.device)
        teams.setdefault(key, []).append(i)
    for chosen in teams.values():
        yield from _rounds(jobs, chosen, minimise, comm_dtype)


def _rounds(
    jobs: Sequence[Job],
    chosen: list[int],
    minimise: Callable[[int, list[Tensor]], Tensor],
    comm_dtype: torch.dtype | None,
) -> Iterator[tuple[int, Tensor]]:
    dtype = jobs[chosen[0]].parts[0].dtype
    sent_as = comm_dtype or dtype
    cut = jobs[chosen[0]].cut
    shares = share_out([jobs[i].flops for i in chosen], len(cut.ranks))
    queues = [_buckets(jobs, [chosen[k] for k in share]) for share in shares]
    plan = [
        [queue[n] if n < len(queue) else [] for queue in queues]
        for n in range(max(len(queue) for queue in queues))
    ]
    arriving = _collect(jobs, plan[0], cut, sent_as)
    leaving: Callable[[], Iterator[tuple[int, Tensor]]] | None = None
    for number, owned in enumerate(plan):
        wholes = arriving()
        if number + 1 < len(plan):
            arriving = _collect(jobs, plan[number + 1], cut, sent_as)
        results = [
            minimise(i, whole).to(sent_as) for i, whole in zip(owned[cut.here], wholes, strict=True)
        ]
        sent = _return(jobs, owned, results, cut, sent_as)
        del results  # they are sent; this frees the memory of a matrix
        if leaving is not None:
            yield from ((i, part.to(dtype)) for i, part in leaving())
        leaving = sent
    if leaving is not None:
        yield from ((i, part.to(dtype)) for i, part in leaving())


def _buckets(jobs: Sequence[Job], queue: list[int]) -> list[list[int]]:
    """Split a queue into buckets, starting a new one when the next matrix would not fit."""
    buckets: list[list[int]] = []
    filled = 0
    for i in queue:
        size = jobs[i].shape.numel() * len(jobs[i].parts)
        if not buckets or filled + size > BUCKET:
            buckets.append([])
            filled = 0
        buckets[-1].append(i)
        filled += size
    return buckets


def _size(box: Box) -> int:
    return torch.Size(size for _, size in box).numel()


def _collect(
    jobs: Sequence[Job], owned: list[list[int]], cut: Cut, sent_as: torch.dtype
) -> Callable[[], Iterator[list[Tensor]]]:
    """Start sending parts to their owners; return a function that waits, and gives whole ones."""
    mine = owned[cut.here]
    if not cut.dims:
        return lambda: iter([list(jobs[i].parts) for i in mine])
    like = next(jobs[i] for owner in owned for i in owner).parts[0]
    team, members = cut.team, range(len(owned))
    pieces = [
        [part.to(sent_as) for i in owned[m] for part in jobs[i].parts] if m in team else []
        for m in members
    ]
    boxes = [
        [jobs[i].cut.boxes[m] for i in mine for _ in jobs[i].parts] if m in team else []
        for m in members
    ]
    wait = swap(pieces, boxes, cut, like.new_empty(0, dtype=sent_as))

    def wholes() -> Iterator[list[Tensor]]:
        arrived = wait()
        place = 0
        for i in mine:
            whole = []
            for _ in jobs[i].parts:
                out = like.new_empty(jobs[i].shape)
                for m in team:
                    out[slices_of(boxes[m][place])] = arrived[m][place]
                whole.append(out)
                place += 1
            if i == mine[-1]:
                arrived.clear()  # before the last matrix is computed
            yield whole

    return wholes


def _return(
    jobs: Sequence[Job],
    owned: list[list[int]],
    results: list[Tensor],
    cut: Cut,
    sent_as: torch.dtype,
) -> Callable[[], Iterator[tuple[int, Tensor]]]:
    """Start sending results; return a function that waits, and yields this rank's parts of all."""
    like = next(jobs[i] for owner in owned for i in owner).parts[0].new_empty(0, dtype=sent_as)
    if not cut.dims:
        return _broadcast(jobs, owned, results, cut, like)
    mine = owned[cut.here]
    pieces = [
        [result[slices_of(jobs[i].cut.boxes[m])] for i, result in zip(mine, results, strict=True)]
        for m in range(len(owned))
    ]
    wait = swap(pieces, [[jobs[i].cut.boxes[cut.here] for i in o] for o in owned], cut, like)

    def parts() -> Iterator[tuple[int, Tensor]]:
        for owner, arrived in zip(owned, wait(), strict=True):
            yield from zip(owner, arrived, strict=True)

    return parts


def swap(
    pieces: list[list[Tensor]], boxes: list[list[Box]], cut: Cut, like: Tensor
) -> Callable[[], list[list[Tensor]]]:
    """Start sending `pieces[m]` to member m; return a function that waits for `boxes[m]`."""
    import torch.distributed as dist

    sizes = [[_size(box) for box in row] for row in boxes]
    order = sorted(range(len(cut.ranks)), key=lambda m: cut.ranks[m])
    sent, received = ([0] * dist.get_world_size(cut.group) for _ in range(2))
    for m in order:
        sent[cut.ranks[m]] = sum(piece.numel() for piece in pieces[m])
        received[cut.ranks[m]] = sum(sizes[m])
    flat = [piece.reshape(-1) for m in order for piece in pieces[m]]
    source = torch.cat(flat) if flat else like.new_empty(0)
    targets = [like.new_empty(sum(received))]
    work = dist.all_to_all_single(targets[0], source, received, sent, cut.group, async_op=True)

    def wait() -> list[list[Tensor]]:
        work.wait()
        found: list[list[Tensor]] = [[] for _ in order]
        target = targets.pop()  # from here on, only the parts refer to its memory
        for m, part in zip(order, torch.split(target, [sum(sizes[m]) for m in order]), strict=True):
            shapes = [[size for _, size in box] for box in boxes[m]]
            found[m] = [x.view(s) for x, s in zip(torch.split(part, sizes[m]), shapes, strict=True)]
        return found

    return wait


def _broadcast(
    jobs: Sequence[Job], owned: list[list[int]], results: list[Tensor], cut: Cut, like: Tensor
) -> Callable[[], Iterator[tuple[int, Tensor]]]:
    """Start sending every owner's results to all; return a function that waits and yields them."""
    import torch.distributed as dist

    flats, works = [], []
    for m, owner in enumerate(owned):
        sizes = [jobs[i].shape.numel() for i in owner]
        if m == cut.here and owner:
            flat = torch.cat([result.reshape(-1) for result in results])
        else:
            flat = like.new_empty(sum(sizes))
        flats.append(flat)
        if owner:
            source = dist.get_global_rank(cut.group, cut.ranks[m])
            works.append(dist.broadcast(flat, source, cut.group, async_op=True))

    def wholes() -> Iterator[tuple[int, Tensor]]:
        for work in works:
            work.wait()
        for owner, flat in zip(owned, flats, strict=True):
            shapes = [jobs[i].shape for i in owner]
            for i, x in zip(owner, torch.split(flat, [s.numel() for s in shapes]), strict=True):
                yield i, x.view(jobs[i].shape)

    return wholes
