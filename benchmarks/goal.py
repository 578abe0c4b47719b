"""Seconds until AdamW's final score, on the ten tasks of the arena.

How many steps a method takes to the score that AdamW with its best step and a cosine ends with is
read from the arena's record. What a step costs is measured here, all methods in turns.
"""

import math
import statistics
import time
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch

from benchmarks import peers, work
from normball.lab.arena.judge import Entry, stand, time_to_goal
from normball.lab.arena.methods import METHODS
from normball.lab.arena.protocol import whole
from normball.lab.arena.record import Row
from normball.lab.arena.tasks import find
from normball.lab.rows import read_rows

RECORD = Path("results/arena/2026-11-27")
REFERENCE = "adamw"
# The tuned rivals, and ours with nothing set and with its step tuned.
COMPARED = (REFERENCE, "muon", "scion", "anytime", "untuned")
# Steps in a row that make one sample, and those before: a measured threshold looks often at first.
_STEPS = 10
_BEFORE = 40


class _Training:
    """Training of one task by one method; counts the time of its two parts."""

    def __init__(self, task: str, entry: Entry) -> None:
        self.task = find(task)
        torch.manual_seed(0)
        self.model = self.task.build()
        self.model.train()
        method = METHODS[entry.method]
        self.optimizer = method.make(self.model, entry.value, self.task.steps)
        self.plain = peers.Float32() if entry.method == "muon" else nullcontext()
        self.chance = torch.Generator().manual_seed(0)
        self.steps: list[float] = []
        self.parameters = sum(p.numel() for p in self.model.parameters() if p.requires_grad)
        self.run(_BEFORE)
        self.steps.clear()

    def run(self, steps: int = _STEPS) -> None:
        for _ in range(steps):
            batch = self.task.batch(self.chance)
            self.optimizer.zero_grad()
            self.task.loss(self.model, batch).backward()
            started = time.perf_counter()
            with self.plain:
                self.optimizer.step()
            self.steps.append(time.perf_counter() - started)


def goals(rounds: int, record: Path = RECORD) -> Iterator[dict[str, Any]]:
    """Yield for every task and method the steps and seconds to AdamW's final score."""
    protocol, rows = whole(), read_rows(record / Row.FILE, Row)
    for task in protocol.tasks:
        standing = stand(protocol, rows, task)
        runs = {name: _Training(task, standing.entries[name]) for name in COMPARED}
        calls = {name: run.run for name, run in runs.items()}
        found = work.summary(work.interleave(calls, rounds), REFERENCE)
        for name, run in runs.items():
            steps, _ = time_to_goal(standing, name)
            ms = found[name]["ms"] / _STEPS
            own = statistics.fmean(run.steps)
            yield {
                "case": "goal",
                "task": task,
                "name": name,
                "parameters": run.parameters,
                "steps_to_goal": round(steps, 1) if math.isfinite(steps) else None,
                "ms_per_step": round(ms, 3),
                "share_of_the_optimizer": round(1e3 * own / ms, 3),
                "seconds_to_goal": round(steps * ms / 1e3, 3) if math.isfinite(steps) else None,
            }
