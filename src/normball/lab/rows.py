"""A run folder's record: one JSON line per finished run, safe against kills and second writers."""

import json
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, get_type_hints

from filelock import FileLock, Timeout

from normball.lab.config import RunConfig
from normball.lab.errors import LabError
from normball.lab.fields import fits
from normball.lab.files import append_line, json_line, write_whole
from normball.lab.machine import describe_commit, describe_machine, versions
from normball.lab.optimizers import find_optimizer
from normball.lab.results import RunResult
from normball.lab.tasks import find_task

ROWS = "rows.jsonl"
REPORT = "report.html"
FIGURE_PNG = "figure.png"
FIGURE_SVG = "figure.svg"
_SCHEMA = "normball.row/2"
# What schema 1 called two of the numbers.
_FORMER = {"test_accuracy": "score", "accuracies": "scores"}
_FIRST = "normball.row/1"
ROW_START = b'{"schema": "normball.row/'
_LOCK = ".lock"


@dataclass(frozen=True)
class Row:
    """A finished run, as the record holds it.

    Attributes:
        config: the settings.
        result: the result; a number that is not finite is read back as NaN.
        versions: package name to version, at the time of the run.
        machine: processor and number of cores.
        commit: of the checkout that ran it; None for an installed package, or where it was changed.
    """

    config: RunConfig
    result: RunResult
    versions: dict[str, str]
    machine: str
    commit: str | None = None


def new_row(config: RunConfig, result: RunResult) -> Row:
    """A row for a run that has just finished in this process.

    Args:
        config: the run's settings.
        result: its result.
    """
    return Row(config, result, versions(), describe_machine(), describe_commit())


def to_line(row: Row) -> bytes:
    """One line of valid JSON, newline included; numbers that are not finite become null.

    Args:
        row: the row to write.
    """
    values = {
        "schema": _SCHEMA,
        "config": asdict(row.config),
        "result": asdict(row.result),
        "versions": row.versions,
        "machine": row.machine,
        "commit": row.commit,
    }
    return json_line(values)


def from_line(line: bytes) -> Row:
    """The row that ``to_line`` wrote.

    Args:
        line: the line, with or without its newline.

    Raises:
        LabError: if it is no such line; the message says what is wrong with it.
    """
    try:
        values = json.loads(line)
    except (UnicodeDecodeError, json.JSONDecodeError):
        raise LabError("it is not valid JSON.") from None
    if not isinstance(values, dict) or values.get("schema") not in (_SCHEMA, _FIRST):
        raise LabError(f"it does not say that its schema is {_SCHEMA}.")
    try:
        config = RunConfig.from_dict(values["config"])
        find_task(config.task)
        find_optimizer(config.optimizer)
        commit, machine = values.get("commit"), values["machine"]
        if not (commit is None or isinstance(commit, str)) or not isinstance(machine, str):
            raise ValueError(f"machine is {machine!r:.40}, commit {commit!r:.40}")
        return Row(
            config=config,
            result=_read_result(values["result"]),
            versions={str(name): str(number) for name, number in values["versions"].items()},
            machine=machine,
            commit=commit,
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise LabError(f"it lacks a field or has a wrong one ({error}).") from None


def _read_result(values: dict[str, Any]) -> RunResult:
    """The result, with the nulls that stand for undefined numbers read back as NaN."""
    kinds = get_type_hints(RunResult)
    read = {_FORMER.get(name, name): value for name, value in values.items()}
    for name, value in read.items():
        if not fits(value, kinds[name], null=True):
            raise ValueError(f"{name} is {value!r:.40}")
        if kinds[name] is float:
            read[name] = _nan_if_none(value)
        elif kinds[name] == list[float]:
            read[name] = [_nan_if_none(entry) for entry in value]
    return RunResult(**read)


def _nan_if_none(value: float | None) -> float:
    return math.nan if value is None else float(value)


def read_rows(record: Path) -> list[Row]:
    """The rows of a record that no process is writing to.

    Args:
        record: the file.

    Raises:
        LabError: if a line is no row; the message has the file and the line.
    """
    try:
        lines = record.read_bytes().splitlines()
    except OSError as error:
        raise LabError(f"cannot read {record}: {error.strerror}.") from error
    rows = []
    for number, line in enumerate(lines, start=1):
        try:
            rows.append(from_line(line))
        except LabError as error:
            raise LabError(f"{record}, line {number} is no finished run: {error}") from None
    return rows


class RunFolder:
    """A folder with a record of finished runs, held by one process at a time.

    Use ``open_folder``, which takes the lock and reads the record.

    Attributes:
        path: the folder.
        rows: the finished runs, in the order they finished.
        dropped: whether an incomplete last line, left by a kill, was found and removed.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: list[Row] = []
        self.dropped = False

    @property
    def record(self) -> Path:
        """The file of rows."""
        return self.path / ROWS

    def done(self) -> set[str]:
        """The keys of the configurations whose runs are finished."""
        return {row.config.key() for row in self.rows}

    def append(self, row: Row) -> None:
        """Add a row on the disk: one write, synced to the disk before this returns.

        Args:
            row: the finished run.

        Raises:
            LabError: if the line cannot be written.
        """
        append_line(self.record, to_line(row))
        self.rows.append(row)

    def replace(self, name: str, content: bytes) -> Path:
        """Write a temporary file and rename it, so that no reader sees an incomplete file.

        Args:
            name: the file's name in the folder.
            content: what it is to hold.

        Returns:
            The file's path.

        Raises:
            LabError: if it cannot be written.
        """
        return write_whole(self.path / name, content)

    def read(self) -> None:
        """Read the record, and remove an incomplete last line that a kill has left.

        Raises:
            LabError: if it cannot be read, or another line is no row; the message has the file and
                the line, and the file is left as it is.
        """
        if not self.record.exists():
            self._refuse_foreign_folder()
            return
        try:
            content = self.record.read_bytes()
        except OSError as error:
            raise LabError(
                f"cannot read {self.record}: {error.strerror}. Choose another --out."
            ) from error
        *lines, rest = content.split(b"\n")
        if rest and not (rest.startswith(ROW_START) or ROW_START.startswith(rest)):
            lines.append(rest)
            rest = b""
        self.rows = [self._read_line(number, line) for number, line in enumerate(lines, start=1)]
        self._refuse_twins()
        if rest:
            os.truncate(self.record, len(content) - len(rest))
            self.dropped = True

    def _read_line(self, number: int, line: bytes) -> Row:
        try:
            return from_line(line)
        except LabError as error:
            raise LabError(
                f"{self.record}, line {number} is not a finished run of this program: {error} "
                "The file is unchanged; choose another --out, or mend or remove that line."
            ) from None

    def _refuse_twins(self) -> None:
        first: dict[str, int] = {}
        for number, row in enumerate(self.rows, start=1):
            earlier = first.setdefault(row.config.key(), number)
            if earlier != number:
                raise LabError(
                    f"{self.record}, line {number} repeats the run of line {earlier}. "
                    "The file is unchanged; remove one of the two."
                )

    def _refuse_foreign_folder(self) -> None:
        for name in (REPORT, FIGURE_PNG, FIGURE_SVG):
            if (self.path / name).exists():
                raise LabError(
                    f"{self.path} has a {name} but no {ROWS}: it is not a run folder. "
                    "Choose another --out."
                )


@contextmanager
def open_folder(path: Path) -> Iterator[RunFolder]:
    """Make a run folder if need be, lock it, read it.

    It is a lock of the operating system, so it ends with the process, however that ends.

    Args:
        path: the folder.

    Yields:
        The folder, its rows read.

    Raises:
        LabError: if the folder cannot be made or written, another process holds it, or its record
            contains lines that are not rows.
    """
    if path.exists() and not path.is_dir():
        raise LabError(f"{path} is a file: --out must be a folder, there or still to be made.")
    try:
        path.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path / _LOCK).acquire(blocking=False)
    except Timeout:
        raise LabError(
            f"another run is at work in {path}: wait for it, or choose another --out."
        ) from None
    except OSError as error:
        raise LabError(
            f"cannot write to {path}: {error.strerror}. Choose another --out."
        ) from error
    with lock:
        folder = RunFolder(path)
        folder.read()
        yield folder
