"""The arena's runs: each in its own process, recorded when it finishes."""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from importlib.metadata import PackageNotFoundError, version
from multiprocessing import get_context
from pathlib import Path

from normball._spawned import settle_in
from normball.lab.arena.choose import pending
from normball.lab.arena.methods import find_method
from normball.lab.arena.protocol import Protocol
from normball.lab.arena.record import Result, Row, Run, append, read_record
from normball.lab.arena.stock import stock
from normball.lab.arena.tasks import find
from normball.lab.arena.training import run
from normball.lab.errors import WorkerError
from normball.lab.machine import describe_commit, describe_machine, versions

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
    """Run once, in this process.

    Args:
        wanted: what to run.
        budget: factor of the task's number of steps.

    Raises:
        LabError: if data or a package are missing.
    """
    method = find_method(wanted.method)
    found = run(
        wanted.task,
        lambda model, steps: method.make(model, wanted.value, steps),
        wanted.seed,
        budget,
        schedule=method.schedule,
    )
    return Row(wanted, Result(**found), packages(), describe_machine(), describe_commit())


def next_runs(
    protocol: Protocol,
    rows: Sequence[Row],
    tasks: Sequence[str],
    methods: Sequence[str],
    busy: Sequence[Run],
    count: int,
) -> list[Run]:
    """The runs to start now, task by task, so that the first tasks are finished early.

    Args:
        protocol: the rules.
        rows: the finished runs.
        tasks: which tasks, in order.
        methods: which methods, in order.
        busy: the runs being made.
        count: how many are wanted at most.
    """
    found: list[Run] = []
    for task in tasks:
        own = [row for row in rows if row.run.task == task]
        for method in methods:
            if len(found) >= count:
                return found[:count]
            found += [one for one in pending(protocol, own, task, method) if one not in busy]
    return found[:count]


def work(
    protocol: Protocol,
    folder: Path,
    tasks: Sequence[str],
    methods: Sequence[str],
    jobs: int,
    seconds: float | None = None,
    say: Callable[[Row], None] | None = None,
) -> bool:
    """Make the runs that are missing.

    Args:
        protocol: the rules.
        folder: of the arena, held by this process.
        tasks: which tasks, in order.
        methods: which methods, in order.
        jobs: processes at a time.
        seconds: time after which no new run is started; None for no limit.
        say: called with every row.

    Returns:
        Whether nothing is missing.

    Raises:
        LabError: if data or a package are missing.
        WorkerError: if a worker's process was ended from outside.
    """
    end = None if seconds is None else time.monotonic() + seconds
    rows = read_record(folder)
    if not next_runs(protocol, rows, tasks, methods, (), 1):
        return True
    for name in sorted({need for task in tasks for need in find(task).needs}):
        stock(name)  # made once, not by every worker
    busy: dict[Future[Row], Run] = {}
    pool = ProcessPoolExecutor(jobs, get_context("spawn"), settle_in)
    try:
        while True:
            going_on = end is None or time.monotonic() < end
            free = jobs - len(busy) if going_on else 0
            for one in next_runs(protocol, rows, tasks, methods, tuple(busy.values()), free):
                busy[pool.submit(make_row, one, protocol.budget)] = one
            if not busy:
                return not next_runs(protocol, rows, tasks, methods, (), 1)
            done = wait(busy, return_when=FIRST_COMPLETED).done
            # Failed runs come last, so that runs that finished at the same time are kept.
            for future in sorted(done, key=lambda one: one.exception() is not None):
                del busy[future]
                row = future.result()
                append(folder, row)
                rows.append(row)
                if say is not None:
                    say(row)
    except BrokenProcessPool:
        raise WorkerError(
            "the process of a run was ended from outside; if the machine ran out of memory, lower "
            "--jobs. Finished runs are kept."
        ) from None
    finally:
        _end(pool)


def _end(pool: ProcessPoolExecutor) -> None:
    """End the workers at once: their unfinished runs are not needed any more."""
    workers = list((pool._processes or {}).values())
    pool.shutdown(wait=False, cancel_futures=True)
    for worker in workers:
        worker.kill()
    for worker in workers:
        worker.join()
