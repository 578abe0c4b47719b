"""Calls of the command `normball`: in this process, or in one that can be interrupted."""

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from normball.cli import main

# Long enough for a busy machine: it only ends a test that hangs.
PATIENCE = 600.0


def call(*argv: str) -> int:
    with pytest.raises(SystemExit) as leaving:
        main(argv)
    return int(leaving.value.code)


def start(*argv: str) -> subprocess.Popen[str]:
    # A runner in the background of a shell passes on that SIGINT is ignored; a terminal does not.
    code = (
        "import signal\n"
        "from normball.cli import main\n"
        "if __name__ == '__main__':\n"
        "    signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        f"    main({list(argv)!r})"
    )
    return subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A terminal sends Ctrl-C to the whole group: here it is a group of its own.
        start_new_session=True,
    )


def wait_for(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.005)


def members(group: int) -> list[int]:
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text(encoding="utf-8").rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[2]) == group and fields[0] != "Z":
            found.append(int(stat.parent.name))
    return found
