"""Runs on Ray: on this machine, or on the cluster that the variable ``RAY_ADDRESS`` names."""

import logging
import os
import socket
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import Any

import ray
import torch
from ray import ObjectRefGenerator

from normball.lab.errors import LabError, WorkerError
from normball.lab.machine import usable_cores
from normball.lab.workers import (
    Event,
    Finished,
    Job,
    Report,
    Row,
    Run,
    Started,
    Take,
    messages,
    read,
)

ADDRESS = "RAY_ADDRESS"
# How often Ray begins a run again that was lost with its process or its machine.
RETRIES = 3
# Rows are small, and by default Ray takes a third of the memory for them.
_STORE = 100 * 2**20
_QUIET: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.WARNING}
_ANSWER = 10.0  # seconds in which a cluster must answer
_PAUSE = 5.0  # seconds until it is looked whether machines have joined


@dataclass(frozen=True)
class OnRay:
    """The engine that leaves runs to Ray. ``connect`` makes it.

    A run takes one core, and one GPU where the cluster has any. If its process or its machine is
    lost, Ray begins the run again on another one.

    Attributes:
        jobs: number of runs at a time; as many as the cluster has room for when None.
    """

    jobs: int | None

    def carry_out(
        self, job: Job[Run, Report, Row], take: Take[Run]
    ) -> Generator[Event[Run, Report, Row], None, None]:
        """As ``Engine`` says; also a WorkerError if Ray loses a run more than ``RETRIES`` times."""
        kind = "GPU" if ray.cluster_resources().get("GPU") else "CPU"
        start = ray.remote(num_cpus=1, num_gpus=int(kind == "GPU"), max_retries=RETRIES)(_work)
        busy: dict[ObjectRefGenerator, tuple[int, Run]] = {}
        try:
            while True:
                while len(busy) < self._room(kind) and (run := take()) is not None:
                    taken = {worker for worker, _ in busy.values()}
                    worker = min(set(range(len(busy) + 1)) - taken)
                    busy[start.remote(job, run)] = worker, run
                    yield Started(worker, run)
                if not busy:
                    return
                for stream in ray.wait(list(busy), num_returns=1, timeout=_PAUSE)[0]:
                    worker, run = busy[stream]
                    event = read(worker, run, _receive(stream, run))
                    if isinstance(event, Finished):
                        del busy[stream]
                    yield event
        finally:
            for stream in busy:
                ray.cancel(stream, force=True)

    def _room(self, kind: str) -> int:
        # Never none: a run that waits tells Ray that a machine is wanted.
        there = max(int(ray.cluster_resources().get(kind, 0)), 1)
        return there if self.jobs is None else min(self.jobs, there)


def connect(jobs: int | None) -> OnRay:
    """Join the cluster that ``RAY_ADDRESS`` names, or start Ray on this machine.

    Ray that this process has started itself is used as it is. A LabError if no cluster answers.
    """
    if not ray.is_initialized():
        # Ray reports its use to its makers unless it is told not to.
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        if address := os.environ.get(ADDRESS):
            _join(address)
        else:
            ray.init(
                "local",
                num_cpus=jobs or usable_cores(),
                include_dashboard=False,
                object_store_memory=_STORE,
                **_QUIET,
            )
    return OnRay(jobs)


def _join(address: str) -> None:
    host, _, port = address.removeprefix("ray://").rpartition(":")
    try:
        if host:  # Ray itself would try for many minutes
            socket.create_connection((host, int(port)), timeout=_ANSWER).close()
        ray.init(address, **_QUIET)
    except (OSError, ValueError, RuntimeError) as error:
        raise LabError(
            f"no Ray cluster answers at {ADDRESS}={address} ({error}): start one with `ray start`, "
            "or unset the variable to use this machine alone."
        ) from None


def _receive(stream: ObjectRefGenerator, run: Run) -> Any:
    try:
        return ray.get(next(stream))
    except ray.exceptions.RayError as error:
        raise WorkerError(
            f"the run {run.describe()} failed on Ray, which begins a run that was lost with its "
            f"process or machine again up to {RETRIES} times. Finished runs are kept.\n{error}"
        ) from None


def _work(job: Job[Run, Report, Row], run: Run) -> Iterator[Any]:
    torch.set_num_threads(1)
    yield from messages(job, run)
