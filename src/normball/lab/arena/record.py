"""The record of the arena's runs."""

import math
from dataclasses import dataclass
from typing import ClassVar

from normball.lab.rows import Recorded

SCHEMA = "normball.arena/1"
RECORD = "arena.jsonl"


@dataclass(frozen=True)
class Run:
    """The settings of a run: the number that is tuned has the value."""

    task: str
    method: str
    value: float
    seed: int

    def describe(self) -> str:
        """The run in a few words: task, method, value of the number that is tuned, and seed."""
        return f"{self.task}, {self.method}, {self.value:g}, seed {self.seed}"


@dataclass(frozen=True)
class Result:
    """The result of a run, as ``run`` returns it; a run that diverged has infinite scores.

    Attributes:
        score: on the half for judging; lower is better.
        choose: the same on the half for choosing.
        scores: everything that was measured on the half for judging.
        curve: steps and scores on a part of that half.
        loss: mean training loss of the last tenth.
        steps: that were taken.
        seconds: of processor time in training.
        state_bytes: of the optimizer.
    """

    NULL: ClassVar[float] = math.inf

    score: float
    choose: float
    scores: dict[str, float]
    curve: list[tuple[int, float]]
    loss: float
    steps: int
    seconds: float
    state_bytes: int


@dataclass(frozen=True)
class Row(Recorded):
    """A finished run; versions, machine and commit are as in ``rows.Row``."""

    FILE = RECORD
    SCHEMAS = (SCHEMA,)

    run: Run
    result: Result
    versions: dict[str, str]
    machine: str
    commit: str | None

    def key(self) -> Run:
        """See ``Recorded``."""
        return self.run
