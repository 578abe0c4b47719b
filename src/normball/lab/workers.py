"""Runs in separate processes, with reports while they run."""

import signal
import traceback
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess

from normball._spawned import settle_in
from normball.lab.config import RunConfig
from normball.lab.errors import LabError, WorkerError
from normball.lab.results import EpochReport, RunResult
from normball.lab.train import Trainer


@dataclass(frozen=True)
class Started:
    """A worker began a run.

    Attributes:
        worker: the worker's number, from 0.
        config: the run.
    """

    worker: int
    config: RunConfig


@dataclass(frozen=True)
class Advanced:
    """A worker finished an epoch.

    Attributes:
        worker: the worker's number, from 0.
        config: the run.
        report: the epoch.
    """

    worker: int
    config: RunConfig
    report: EpochReport


@dataclass(frozen=True)
class Finished:
    """A worker finished a run.

    Attributes:
        worker: the worker's number, from 0.
        config: the run.
        result: the result.
    """

    worker: int
    config: RunConfig
    result: RunResult


Event = Started | Advanced | Finished


@dataclass(frozen=True)
class _Failed:
    report: str


@dataclass(frozen=True)
class _Refused:
    reason: str


@dataclass
class _Worker:
    number: int
    process: SpawnProcess
    pipe: Connection
    config: RunConfig | None = None


def run_all(
    configs: Iterable[RunConfig], jobs: int, *, go_on: Callable[[], bool] = lambda: True
) -> Generator[Event, None, None]:
    """Run configurations in worker processes, one thread of arithmetic each.

    The workers end with this iterator: when it is exhausted, closed, or raises.

    Args:
        configs: the runs, begun in this order.
        jobs: number of processes.
        go_on: asked before every run; once it says no, the runs under way are the last ones.

    Yields:
        Events, as they happen.

    Raises:
        LabError: if a run cannot be done as asked, for lack of data for instance.
        WorkerError: if a run fails; the message names the run and holds the worker's traceback.
    """
    waiting = deque(configs)
    with _workers(min(jobs, len(waiting))) as workers:
        for worker in workers:
            if go_on():
                yield _begin(worker, waiting.popleft())
        while busy := {worker.pipe: worker for worker in workers if worker.config}:
            for pipe in wait(list(busy)):
                worker = busy[pipe]  # type: ignore[index]
                event = _receive(worker)
                yield event
                if isinstance(event, Finished):
                    worker.config = None
                    if waiting and go_on():
                        yield _begin(worker, waiting.popleft())


def _begin(worker: _Worker, config: RunConfig) -> Started:
    # If the process has died already, receiving from it will raise and say how.
    with suppress(ConnectionError):
        worker.pipe.send(config)
    worker.config = config
    return Started(worker.number, config)


def _receive(worker: _Worker) -> Event:
    config = worker.config
    if config is None:
        raise WorkerError(f"worker {worker.number} spoke without having a run.")
    try:
        message = worker.pipe.recv()
    except (EOFError, ConnectionError):
        worker.process.join()
        raise WorkerError(
            f"the process of the run {config.describe()} ended with exit code "
            f"{worker.process.exitcode}; if the machine ran out of memory, lower --jobs."
        ) from None
    if isinstance(message, _Refused):
        raise LabError(message.reason)
    if isinstance(message, _Failed):
        raise WorkerError(f"the run {config.describe()} failed.\n{message.report}")
    if isinstance(message, EpochReport):
        return Advanced(worker.number, config, message)
    return Finished(worker.number, config, message)


@contextmanager
def _workers(count: int) -> Iterator[list[_Worker]]:
    workers: list[_Worker] = []
    try:
        with _interrupt_ignored():
            for number in range(count):
                workers.append(_spawn(number))
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


def _spawn(number: int) -> _Worker:
    context = get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_work, args=(theirs,), daemon=True)
    process.start()
    theirs.close()
    return _Worker(number, process, ours)


def _work(pipe: Connection) -> None:
    """The loop of a worker: receive a configuration, train it, send events, until it is killed."""
    settle_in()
    while True:
        config: RunConfig = pipe.recv()
        try:
            result = Trainer(config).run(on_epoch=pipe.send)
        except LabError as error:
            pipe.send(_Refused(str(error)))
            return
        except Exception:
            pipe.send(_Failed(traceback.format_exc()))
            return
        pipe.send(result)
