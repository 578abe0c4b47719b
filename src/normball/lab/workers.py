"""Runs in separate processes, with reports while they run."""

import signal
import traceback
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Any, Generic, Protocol, TypeVar

from normball._spawned import settle_in
from normball.lab.errors import LabError, WorkerError


class Described(Protocol):
    """The settings of a run."""

    def describe(self) -> str:
        """The run in a few words, for messages."""


Run = TypeVar("Run", bound=Described)
Report = TypeVar("Report")
Row = TypeVar("Row")


# What happens to the runs: each event names the worker, by its number from 0, and the run.
@dataclass(frozen=True)
class Started(Generic[Run]):
    """A worker began a run."""

    worker: int
    run: Run


@dataclass(frozen=True)
class Advanced(Generic[Run, Report]):
    """A worker reported on its run, such as an epoch."""

    worker: int
    run: Run
    report: Report


@dataclass(frozen=True)
class Finished(Generic[Run, Row]):
    """A worker finished a run, with a row for the record."""

    worker: int
    run: Run
    row: Row


Event = Started[Run] | Advanced[Run, Report] | Finished[Run, Row]
# Carries out a run: yields reports, and returns the row. A function of a module, as it is pickled.
Job = Callable[[Run], Generator[Report, None, Row]]
# The next run to begin; None if there is none now.
Take = Callable[[], Run | None]


class Engine(Protocol):
    """Where runs are carried out."""

    def carry_out(
        self, job: Job[Run, Report, Row], take: Take[Run]
    ) -> Generator[Event[Run, Report, Row], None, None]:
        """Carry out runs until none is under way and there is no next one.

        The workers' runs end with this iterator: when it is exhausted, closed, or raises.

        Args:
            job: carries out one run, in a process with one thread of arithmetic.
            take: asked for a run whenever there is room for one.

        Yields:
            Events, as they happen.

        Raises:
            LabError: if a run cannot be done as asked, for lack of data for instance.
            WorkerError: if a run fails; the message names the run and holds its traceback.
        """


@dataclass(frozen=True)
class _End:
    """The last message of a run: its row, or why there is none."""

    row: Any = None
    refused: str = ""
    failed: str = ""


def messages(job: Job[Run, Report, Row], run: Run) -> Iterator[Any]:
    """Carry out a run, in the process of a worker: reports, and at last an end for ``read``."""
    try:
        yield _End((yield from job(run)))
    except LabError as error:
        yield _End(refused=str(error))
    except Exception:
        yield _End(failed=traceback.format_exc())


def read(worker: int, run: Run, message: Any) -> Event[Run, Any, Any]:
    """The event that a message of a worker stands for; a LabError or a WorkerError if it failed."""
    if not isinstance(message, _End):
        return Advanced(worker, run, message)
    if message.refused:
        raise LabError(message.refused)
    if message.failed:
        raise WorkerError(f"the run {run.describe()} failed.\n{message.failed}")
    return Finished(worker, run, message.row)


@dataclass
class _Worker:
    number: int
    process: SpawnProcess
    pipe: Connection
    run: Any = None


@dataclass(frozen=True)
class Local:
    """The engine of one machine: processes, begun when they are needed.

    Attributes:
        jobs: number of processes.
    """

    jobs: int

    def carry_out(
        self, job: Job[Run, Report, Row], take: Take[Run]
    ) -> Generator[Event[Run, Report, Row], None, None]:
        """As ``Engine`` says."""
        with _workers() as workers:
            while True:
                busy = {worker.pipe: worker for worker in workers if worker.run is not None}
                while len(busy) < self.jobs and (run := take()) is not None:
                    worker = _idle(workers, job)
                    yield _begin(worker, run)
                    busy[worker.pipe] = worker
                if not busy:
                    return
                for pipe in wait(list(busy)):
                    yield _receive(busy[pipe])  # type: ignore[index]


def _idle(workers: list[_Worker], job: Job[Run, Report, Row]) -> _Worker:
    """A worker without a run, begun if there is none."""
    for worker in workers:
        if worker.run is None:
            return worker
    with _interrupt_ignored():
        workers.append(_spawn(len(workers), job))
    return workers[-1]


def _begin(worker: _Worker, run: Run) -> Started[Run]:
    # If the process has died already, receiving from it will raise and say how.
    with suppress(ConnectionError):
        worker.pipe.send(run)
    worker.run = run
    return Started(worker.number, run)


def _receive(worker: _Worker) -> Event[Any, Any, Any]:
    try:
        message = worker.pipe.recv()
    except (EOFError, ConnectionError):
        worker.process.join()
        raise WorkerError(
            f"the process of the run {worker.run.describe()} ended with exit code "
            f"{worker.process.exitcode}; if the machine ran out of memory, lower --jobs. "
            "Finished runs are kept."
        ) from None
    event = read(worker.number, worker.run, message)
    if isinstance(event, Finished):
        worker.run = None
    return event


@contextmanager
def _workers() -> Iterator[list[_Worker]]:
    workers: list[_Worker] = []
    try:
        yield workers
    finally:
        for worker in workers:
            worker.process.kill()
        for worker in workers:
            worker.process.join()
            worker.pipe.close()


@contextmanager
def _interrupt_ignored() -> Iterator[None]:
    """Processes started inside never see Ctrl-C, not even while they load: their parent acts.

    Windows does not pass this on: there a worker ignores it once it has loaded.
    """
    previous = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)


def _spawn(number: int, job: Job[Run, Report, Row]) -> _Worker:
    context = get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_work, args=(theirs, job), daemon=True)
    process.start()
    theirs.close()
    return _Worker(number, process, ours)


def _work(pipe: Connection, job: Job[Run, Report, Row]) -> None:
    """The loop of a worker: receive a run, carry it out, send messages, until it is killed."""
    settle_in()
    while True:
        for message in messages(job, pipe.recv()):
            pipe.send(message)
