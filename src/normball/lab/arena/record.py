"""The record of the arena's runs: one JSON line for each, on the disk as soon as it is finished."""

import json
import math
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, get_type_hints

from normball.lab.arena.protocol import SCHEMA
from normball.lab.errors import LabError
from normball.lab.fields import fits
from normball.lab.files import append_line, json_line

RECORD = "arena.jsonl"


@dataclass(frozen=True)
class Run:
    """The settings of a run.

    Attributes:
        task: its name.
        method: its name.
        value: of the number that is tuned.
        seed: of the network and the mini-batches.
    """

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

    score: float
    choose: float
    scores: dict[str, float]
    curve: list[tuple[int, float]]
    loss: float
    steps: int
    seconds: float
    state_bytes: int


@dataclass(frozen=True)
class Row:
    """A finished run, as the record holds it.

    Attributes:
        run: its settings.
        result: its result.
        versions: of the packages.
        machine: its processor.
        commit: of the checkout, None where there is none or it was changed.
    """

    run: Run
    result: Result
    versions: dict[str, str]
    machine: str
    commit: str | None


def to_line(row: Row) -> bytes:
    """One line of valid JSON, newline included; what is not finite becomes null.

    Args:
        row: the row.
    """
    return json_line({"schema": SCHEMA, **asdict(row)})


def from_line(line: bytes) -> Row:
    """The row that ``to_line`` wrote.

    Args:
        line: the line.

    Raises:
        ValueError: if it is no such line; the message says what is wrong.
    """
    try:
        values = json.loads(line)
        if values.pop("schema") != SCHEMA:
            raise ValueError(f"its schema is not {SCHEMA}")
        run = _checked(Run, values["run"])
        result = _checked(Result, values["result"], ("scores", "curve"))
        for name in ("score", "choose", "loss"):
            result[name] = _number(result[name])
        result["scores"] = {str(k): _number(v) for k, v in result["scores"].items()}
        result["curve"] = [(int(step), _number(score)) for step, score in result["curve"]]
        return Row(
            Run(**run),
            Result(**result),
            {str(name): str(number) for name, number in values["versions"].items()},
            str(values["machine"]),
            values["commit"],
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"it lacks a field or has a wrong one ({error!r})") from None


def _checked(kind: type, values: dict[str, Any], unchecked: Sequence[str] = ()) -> dict[str, Any]:
    for name, hint in get_type_hints(kind).items():
        if name not in unchecked and not fits(values[name], hint, null=True):
            raise TypeError(f"{name} is {values[name]!r:.40}")
    return dict(values)


def _number(value: float | None) -> float:
    return math.inf if value is None else float(value)


def read_record(folder: Path) -> list[Row]:
    """The finished runs of a folder; an incomplete last line, left by a kill, is removed.

    Args:
        folder: of the arena, held by this process.

    Raises:
        LabError: if another line is no row, or repeats a run; the file is then unchanged.
    """
    path = folder / RECORD
    if not path.exists():
        return []
    content = path.read_bytes()
    *lines, rest = content.split(b"\n")
    rows: dict[Run, Row] = {}
    for number, line in enumerate(lines, start=1):
        try:
            row = from_line(line)
            if row.run in rows:
                raise ValueError("it repeats another one")
        except ValueError as error:
            raise LabError(
                f"{path}, line {number} is no finished run: {error}. The file is unchanged; mend "
                "or remove that line, or choose another --out."
            ) from None
        rows[row.run] = row
    if rest:
        os.truncate(path, len(content) - len(rest))
    return list(rows.values())


def append(folder: Path, row: Row) -> None:
    """Add a row: one write, pushed to the device before this returns.

    Args:
        folder: of the arena, held by this process.
        row: the finished run.

    Raises:
        LabError: if the disk does not take the line.
    """
    append_line(folder / RECORD, to_line(row))
