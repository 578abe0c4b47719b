"""The arena's runs: each in its own process, recorded when it finishes."""

import math
import time
from collections.abc import Callable, Collection, Generator, Sequence
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from typing import Never

from normball.lab.arena.choose import pending
from normball.lab.arena.methods import METHODS
from normball.lab.arena.protocol import Protocol
from normball.lab.arena.record import Result, Row, Run
from normball.lab.arena.stock import stock
from normball.lab.arena.tasks import find
from normball.lab.arena.training import run
from normball.lab.machine import describe_commit, describe_machine, versions
from normball.lab.registry import look_up
from normball.lab.rows import RunFolder
from normball.lab.workers import Engine, Event, Finished

_PACKAGES = ("schedulefree", "prodigyopt", "pytorch-optimizer")


def packages() -> dict[str, str]:
    """Versions of all packages that can change a result, also those of other methods."""
    found = dict(versions())
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def make_row(wanted: Run, budget: float) -> Row:
    """Run once, in this process."""
    method = look_up("arena method", wanted.method, METHODS)
    found = run(
        wanted.task,
        lambda model, steps: method.make(model, wanted.value, steps),
        wanted.seed,
        budget,
        schedule=method.schedule,
    )
    return Row(wanted, Result(**found), packages(), describe_machine(), describe_commit())


def next_run(
    protocol: Protocol,
    rows: Sequence[Row],
    tasks: Sequence[str],
    methods: Sequence[str],
    busy: Collection[Run] = (),
) -> Run | None:
    """The run to start now that is not busy, task by task, so that the first are finished early.

    None where there is none before others are finished, or at all.
    """
    for task in tasks:
        own = [row for row in rows if row.run.task == task]
        for method in methods:
            for one in pending(protocol, own, task, method):
                if one not in busy:
                    return one
    return None


def work(
    protocol: Protocol,
    folder: RunFolder[Row],
    tasks: Sequence[str],
    methods: Sequence[str],
    engine: Engine,
    seconds: float | None = None,
    say: Callable[[Row], None] = lambda _: None,
) -> bool:
    """Make the runs that are missing.

    Args:
        seconds: time after which no new run is started; None for no limit.

    Returns:
        Whether nothing is missing.

    Raises:
        LabError: if data or a package are missing.
        WorkerError: if a run fails, or its process is ended from outside.
    """
    end = math.inf if seconds is None else time.monotonic() + seconds
    if next_run(protocol, folder.rows, tasks, methods) is None:
        return True
    for name in sorted({need for task in tasks for need in find(task).needs}):
        stock(name)  # made once, not by every worker
    busy: set[Run] = set()

    def take() -> Run | None:
        if time.monotonic() >= end:
            return None
        found = next_run(protocol, folder.rows, tasks, methods, busy)
        if found is not None:
            busy.add(found)
        return found

    def on_event(event: Event[Run, Never, Row]) -> None:
        if isinstance(event, Finished):
            busy.remove(event.run)
            say(event.row)

    folder.carry_out(engine, partial(_make, budget=protocol.budget), take, on_event)
    return next_run(protocol, folder.rows, tasks, methods) is None


def _make(wanted: Run, budget: float) -> Generator[Never, None, Row]:
    """Carry out a run, which makes no reports."""
    yield from ()
    return make_row(wanted, budget)
