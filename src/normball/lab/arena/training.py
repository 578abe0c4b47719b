"""One run: from a task, an optimizer and a seed to a result."""

import math
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

from normball.lab.arena.base import ArenaTask, Scores, one_thread
from normball.lab.arena.tasks import find
from normball.lab.averaged import measured

POINTS = 12
HALVES = ("judge", "choose")
_STATISTICS_BATCHES = 10

MakeOptimizer = Callable[[nn.Module, int], Any]
"""Takes model and number of steps; returns an object with ``step``, ``zero_grad`` and groups."""
Schedule = Callable[[float], float]
"""Maps the share of the run that is done to a factor of every group's ``lr``."""


@one_thread()
@torch.random.fork_rng(devices=[])
def run(
    task: str,
    make_optimizer: MakeOptimizer,
    seed: int,
    budget: float = 1.0,
    *,
    schedule: Schedule | None = None,
    on_step: Callable[[int, float, Any], None] | None = None,
) -> dict[str, Any]:
    """Train a task's network once, on one thread.

    Network and mini-batches depend only on the seed. The curve is measured on a part of the half
    for judging, with the averaged weights if the optimizer has them. The statistics of batch norm
    are computed again for every measurement, for every optimizer.

    Args:
        task: a key of ``TASKS``.
        make_optimizer: makes the optimizer; if that has ``eval`` and ``train``, they are called
            around every measurement.
        seed: of the network's start and of the mini-batches.
        budget: factor of the task's number of steps.
        schedule: the factor of every group's ``lr`` over the run; None does not change ``lr``.
        on_step: called after each backward pass, before the step, with the step's number from 0,
            the loss and the optimizer.

    Returns:
        ``score`` and ``choose``, the final score (low is good, infinite where the run diverged) on
        the halves for judging and for choosing; ``scores``, everything measured there; ``curve``,
        pairs of steps and scores; ``loss``, the mean training loss of the last tenth; ``steps``;
        ``seconds`` of processor time in training, and ``state_bytes`` of the optimizer.

    Raises:
        LabError: if the task is unknown, or its data are missing.
    """
    found, steps = find(task), max(1, round(budget * find(task).steps))
    torch.manual_seed(seed)
    model = found.build()
    optimizer = make_optimizer(model, steps)
    chance = torch.Generator().manual_seed(seed)
    first = [group["lr"] for group in optimizer.param_groups]
    marks = {round(steps * point / POINTS) for point in range(1, POINTS + 1)} - {0}
    curve: list[tuple[int, float]] = []
    losses: list[float] = []
    judged: Scores = {}
    chosen: Scores = {}
    seconds = 0.0
    model.train()
    if hasattr(optimizer, "train"):
        optimizer.train()
    for step in range(steps):
        batch = found.batch(chance)
        started = time.process_time()
        if schedule is not None:
            for group, lr in zip(optimizer.param_groups, first, strict=True):
                group["lr"] = lr * schedule(step / steps)
        optimizer.zero_grad()
        loss = found.loss(model, batch)
        loss.backward()  # type: ignore[no-untyped-call]
        losses.append(float(loss.detach()))
        if not math.isfinite(losses[-1]):
            break
        if on_step is not None:
            on_step(step, losses[-1], optimizer)
        optimizer.step()
        seconds += time.process_time() - started
        if step + 1 in marks:
            with measured(model, optimizer, _inputs(found, seed)):
                seen = found.measure(model, "judge", False)
                if step + 1 == steps:
                    judged, chosen = (found.measure(model, half, True) for half in HALVES)
            curve.append((step + 1, _first(seen)))
    last = losses[-max(1, len(losses) // 10) :]
    whole = bool(chosen) and all(math.isfinite(value) for value in judged.values())
    return {
        "score": _first(judged) if whole else math.inf,
        "choose": _first(chosen) if whole else math.inf,
        "scores": judged if whole else {},
        "curve": curve,
        "loss": sum(last) / len(last),
        "steps": len(losses),
        "seconds": seconds,
        "state_bytes": _state_bytes(optimizer),
    }


def _first(scores: Scores) -> float:
    return next(iter(scores.values()))


def _inputs(task: ArenaTask, seed: int) -> Iterator[torch.Tensor]:
    """Inputs of some training batches, the same at every measurement."""
    chance = torch.Generator().manual_seed(seed + 1_000_000)
    for _ in range(_STATISTICS_BATCHES):
        yield task.batch(chance)[0]


def _state_bytes(optimizer: Any) -> int:
    parts = getattr(optimizer, "parts", [optimizer])
    tensors = [x for part in parts for state in part.state.values() for x in _tensors(state)]
    return sum(x.numel() * x.element_size() for x in tensors if x.dim())


def _tensors(value: Any) -> Iterator[torch.Tensor]:
    """All tensors in nested dictionaries and lists."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, dict | list | tuple):
        for entry in value.values() if isinstance(value, dict) else value:
            yield from _tensors(entry)
