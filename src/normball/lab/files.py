"""Files that are complete or absent, whenever the program or the machine is stopped."""

import json
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from normball.lab.errors import LabError


@contextmanager
def whole_file(target: Path, mark: str = ".new") -> Iterator[BinaryIO]:
    """Write a temporary file in the same folder, and rename it when it is on the disk.

    Args:
        target: the file's path; its folder is made.
        mark: the end of the temporary file's name.

    Yields:
        The open file to be written.

    Raises:
        LabError: if it cannot be written; an existing file of that name is then unchanged.
    """
    beside = target.with_name(f".{target.name}{mark}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with beside.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        beside.replace(target)
        _sync_folder(target.parent)
    except BaseException as error:
        with suppress(OSError):  # a part of a file would fill the disk for nothing
            beside.unlink(missing_ok=True)
        failed = _failed_write(error)
        if failed is None:
            raise
        raise LabError(f"cannot write {target}: {failed.strerror}.") from error


def _failed_write(error: BaseException | None) -> OSError | None:
    """The error of the system, where `error` is one or came of one, as torch.save's does."""
    while error is not None and not isinstance(error, OSError):
        error = error.__context__ if isinstance(error, RuntimeError) else None
    return error


def write_whole(target: Path, content: bytes) -> Path:
    """Write bytes as ``whole_file`` does, and return the file's path."""
    with whole_file(target) as file:
        file.write(content)
    return target


def json_line(values: dict[str, Any]) -> bytes:
    """One line of valid JSON, newline included; numbers that are not finite become null."""
    return json.dumps(_finite(values), allow_nan=False).encode() + b"\n"


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def append_line(record: Path, line: bytes) -> None:
    """Add a line to a file that only this process writes: one write, synced before this returns.

    A LabError if it cannot be written; a part of it is removed again.
    """
    before = record.stat().st_size if record.exists() else 0
    try:
        with record.open("ab", buffering=0) as file:
            rest = memoryview(line)
            while rest:  # once, unless the disk is full, which the second write says
                rest = rest[file.write(rest) :]
            os.fsync(file.fileno())
    except OSError as error:
        with suppress(OSError):  # if not here, the next to read the record removes the part
            os.truncate(record, before)
        raise LabError(f"cannot write to {record}: {error.strerror}.") from error


def _sync_folder(folder: Path) -> None:
    """Push a folder's list of names to the disk, where the system opens folders."""
    if not hasattr(os, "O_DIRECTORY"):  # Windows
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
