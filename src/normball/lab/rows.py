"""A folder's record: one JSON line per finished run, safe against kills and second writers."""

import json
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, Generic, Self, TypeVar

from filelock import FileLock, Timeout

from normball.lab import fields
from normball.lab.config import RunConfig
from normball.lab.errors import LabError
from normball.lab.files import append_line, json_line, write_whole
from normball.lab.machine import describe_commit, describe_machine, versions
from normball.lab.optimizers import find_optimizer
from normball.lab.results import RunResult
from normball.lab.tasks import find_task
from normball.lab.workers import Engine, Event, Finished, Job, Report, Run, Take

ROWS = "rows.jsonl"
REPORT = "report.html"
FIGURE_PNG = "figure.png"
FIGURE_SVG = "figure.svg"
# What schema 1 called two of the numbers.
_FORMER = {"test_accuracy": "score", "accuracies": "scores"}
ROW_START = b'{"schema": "normball.row/'
_LOCK = ".lock"
_ADVICE = " The file is unchanged; choose another --out, or mend or remove that line."


@dataclass(frozen=True)
class Recorded(ABC):
    """A finished run, as a record holds it."""

    FILE: ClassVar[str]  # the record's name
    SCHEMAS: ClassVar[tuple[str, ...]]  # those that can be read; the first is written

    @abstractmethod
    def key(self) -> Hashable:
        """Equal exactly when the settings are."""

    @classmethod
    def read(cls, values: dict[str, Any]) -> Self:
        """The row of a line's values; a ValueError or a LabError says what is wrong with them."""
        return fields.read(cls, values)  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Row(Recorded):
    """A finished training run.

    Attributes:
        config: the settings.
        result: the result; a number that is not finite is read back as NaN.
        versions: package name to version, at the time of the run.
        machine: processor and number of cores.
        commit: of the checkout that ran it; None for an installed package, or where it was changed.
    """

    FILE = ROWS
    SCHEMAS = ("normball.row/2", "normball.row/1")

    config: RunConfig
    result: RunResult
    versions: dict[str, str]
    machine: str
    commit: str | None = None

    def key(self) -> str:
        """See ``Recorded``."""
        return self.config.key()

    @classmethod
    def read(cls, values: dict[str, Any]) -> Self:
        """See ``Recorded``."""
        if isinstance(result := values.get("result"), dict):
            values["result"] = {_FORMER.get(name, name): value for name, value in result.items()}
        row = super().read(values)
        find_task(row.config.task)
        find_optimizer(row.config.optimizer)
        return row


Kept = TypeVar("Kept", bound=Recorded)


def new_row(config: RunConfig, result: RunResult) -> Row:
    """A row for a run that has just finished in this process."""
    return Row(config, result, versions(), describe_machine(), describe_commit())


def to_line(row: Recorded) -> bytes:
    """One line of valid JSON, newline included; numbers that are not finite become null."""
    return json_line({"schema": row.SCHEMAS[0], **asdict(row)})


def from_line(line: bytes, kind: type[Any] = Row) -> Any:
    """The row that ``to_line`` wrote; else a LabError says what is wrong with the line."""
    try:
        values = json.loads(line)
    except ValueError:
        raise LabError("it is not valid JSON.") from None
    if not isinstance(values, dict) or values.pop("schema", None) not in kind.SCHEMAS:
        raise LabError(f"it does not say that its schema is {kind.SCHEMAS[0]}.")
    try:
        return kind.read(values)
    except ValueError as error:
        raise LabError(f"it lacks a field or has a wrong one ({error}).") from None


def read_rows(record: Path, kind: type[Any] = Row) -> list[Any]:
    """The rows of a record that no process is writing to; a LabError names a line that is none."""
    return _parse(record, _content(record).splitlines(), kind)


def _content(record: Path, advice: str = "") -> bytes:
    try:
        return record.read_bytes()
    except OSError as error:
        raise LabError(f"cannot read {record}: {error.strerror}.{advice}") from error


def _parse(record: Path, lines: list[bytes], kind: type[Kept], advice: str = "") -> list[Kept]:
    rows: dict[Hashable, Kept] = {}
    for number, line in enumerate(lines, start=1):
        try:
            row = from_line(line, kind)
            if row.key() in rows:
                earlier = list(rows).index(row.key()) + 1
                raise LabError(f"it repeats the run of line {earlier}.")
        except LabError as error:
            raise LabError(
                f"{record}, line {number} is no finished run of this program: {error}{advice}"
            ) from None
        rows[row.key()] = row
    return list(rows.values())


class RunFolder(Generic[Kept]):
    """A folder with a record of finished runs, held by one process at a time.

    Use ``open_folder``, which takes the lock and reads the record.

    Attributes:
        path: the folder.
        record: the file of rows.
        rows: the finished runs, in the order they finished.
        dropped: whether an incomplete last line, left by a kill, was found and removed.
    """

    def __init__(self, path: Path, kind: type[Kept]) -> None:
        self.path = path
        self.record = path / kind.FILE
        self.rows: list[Kept] = []
        self.dropped = False
        self._kind = kind

    def done(self) -> set[Hashable]:
        """The keys of the finished runs."""
        return {row.key() for row in self.rows}

    def append(self, row: Kept) -> None:
        """Add a row on the disk: one write, synced before this returns, or a LabError."""
        append_line(self.record, to_line(row))
        self.rows.append(row)

    def carry_out(
        self,
        engine: Engine,
        job: Job[Run, Report, Kept],
        take: Take[Run],
        on_event: Callable[[Event[Run, Report, Kept]], None],
    ) -> None:
        """Carry out runs, and add each finished one at once.

        Raises:
            LabError: if a row cannot be written, or a run cannot be done as asked.
            WorkerError: if a run fails, or its process is ended from outside.
        """
        events = engine.carry_out(job, take)
        try:
            for event in events:
                if isinstance(event, Finished):
                    self.append(event.row)
                on_event(event)
        finally:
            events.close()

    def replace(self, name: str, content: bytes) -> Path:
        """Write a file of the folder as ``write_whole`` does; no reader sees an incomplete one."""
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
        content = _content(self.record, " Choose another --out.")
        *lines, rest = content.split(b"\n")
        schema, _, _ = self._kind.SCHEMAS[0].rpartition("/")
        start = f'{{"schema": "{schema}/'.encode()
        if rest and not (rest.startswith(start) or start.startswith(rest)):
            lines.append(rest)
            rest = b""
        self.rows = _parse(self.record, lines, self._kind, _ADVICE)
        if rest:
            os.truncate(self.record, len(content) - len(rest))
            self.dropped = True

    def _refuse_foreign_folder(self) -> None:
        for name in (REPORT, FIGURE_PNG, FIGURE_SVG):
            if (self.path / name).exists():
                raise LabError(
                    f"{self.path} has a {name} but no {self.record.name}: it is not a run folder. "
                    "Choose another --out."
                )


@contextmanager
def open_folder(path: Path, kind: type[Any] = Row) -> Iterator[RunFolder[Any]]:
    """Make a run folder if need be, lock it, read it.

    It is a lock of the operating system, so it ends with the process, however that ends.

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
        folder = RunFolder(path, kind)
        folder.read()
        yield folder
