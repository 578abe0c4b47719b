"""Runs that cost nothing, and write down that they were begun."""

import os
import signal
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path

from normball.lab.errors import LabError


@dataclass(frozen=True)
class Errand:
    """What to do.

    Attributes:
        log: a file that gets a line whenever the run begins.
        deaths: how often its process is killed.
        fault: ``"refused"``, ``"broken"``, or nothing.
    """

    log: Path
    deaths: int = 0
    fault: str = ""

    def describe(self) -> str:
        return f"errand {self.log.name}"

    def begun(self) -> int:
        return len(self.log.read_text().splitlines())


def do(errand: Errand) -> Generator[int, None, str]:
    with errand.log.open("a") as file:
        file.write("begun\n")
    yield 1
    if errand.begun() <= errand.deaths:
        os.kill(os.getpid(), signal.SIGKILL)
    if errand.fault == "refused":
        raise LabError("no such thing is to be had.")
    if errand.fault == "broken":
        raise ZeroDivisionError("a fault of the program")
    yield 2
    return errand.log.name
