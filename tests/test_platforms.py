"""What Linux has and others lack is not needed.

A stand-in for Windows, as far as Linux allows one: in every process the modules and functions that
only POSIX has are gone, and a folder is not opened as a file.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
# Python itself runs this at its start, in the workers too.
ELSEWHERE = """
import os, shutil, sys

POSIX_ONLY = {"crypt", "fcntl", "grp", "pwd", "resource", "syslog", "termios", "tty"}

class Lacking:
    def find_spec(name, path=None, target=None):
        if name in POSIX_ONLY:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

for name in POSIX_ONLY:
    sys.modules.pop(name, None)
sys.meta_path.insert(0, Lacking)
for name in ("O_DIRECTORY", "fork", "getuid", "sched_getaffinity"):
    delattr(os, name)
really_open = os.open

def open_file(path, *args, **named):
    if not isinstance(path, int) and os.path.isdir(path):
        raise PermissionError(13, "Permission denied", path)
    return really_open(path, *args, **named)

os.open = open_file
shutil._use_fd_functions = False
"""
# Each command with one small run.
COMMANDS = [
    "train digits --optimizer scion --epochs 1 --out runs",
    "train digits --optimizer clipped-scion --epochs 1 --out runs --resume",
    "find-lr digits --out curve",
    "smoothness digits --epochs 1 --every 5 --out smooth",
    "rates --out rates --n 100 --seeds 0 --jobs 1",
    "fetch shakespeare",
    "report runs",
    "arena --quick --out arena --jobs 1 --budget 0s",
]
WITH_WORKERS = [
    "sweep digits --out swept --optimizers scion --seeds 0,1 --lr 2^-5 --epochs 1 --jobs 2",
    "reproduce fig1 --out figure --jobs 1",
    "rates --out rates --n 100 --seeds 0 --jobs 2",
    "arena --quick --out arena --jobs 2",
]
RUN = """
import sys
from normball.cli import app
from normball.cli.commands import reproduce
from normball.cli.commands import arena
from normball.lab import fetch
from normball.lab.arena.protocol import Protocol
from normball.lab.reproduce import read_experiment
from tests.lab.test_reproduce import FIGURE, PART

SMALL = PART | {"seeds": 1, "settings": {"epochs": 1}, "claims": []}
fetch.SOURCES = {"shakespeare": (lambda folder: {"plays/text.txt": b"To be."},)}
arena.quick_rules = lambda: Protocol(
    ("digits",), ("adamw", "muon", "untuned"), 1, 0, judge=(0,), budget=0.02
)
figure = FIGURE | dict.fromkeys(("cpu", "gpu", "paper"), SMALL)
reproduce.load_experiment = lambda name, scale: read_experiment(name, scale, figure)

if __name__ == "__main__":
    for line in sys.stdin.read().splitlines():
        code = app.run(line.split())
        if code:
            sys.exit(f"{line}: exit code {code}")
        print("done:", line)
"""


def start(tmp_path: Path, commands: list[str]) -> "subprocess.CompletedProcess[str]":
    site = tmp_path / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(ELSEWHERE)
    (site / "start_all.py").write_text(RUN)
    paths = [str(site), str(ROOT / "src"), str(ROOT)]
    settings = {"PYTHONPATH": os.pathsep.join(paths), "NORMBALL_DATA": str(tmp_path / "data")}
    return subprocess.run(
        [sys.executable, str(site / "start_all.py")],
        input="\n".join(commands),
        cwd=tmp_path,
        env=os.environ | settings,
        capture_output=True,
        text=True,
        check=False,
    )


def names() -> list[str]:
    from normball.cli.app import app

    return [command.name or command.callback.__name__ for command in app.registered_commands]


def test_every_command_starts_and_works_without_what_only_posix_has(tmp_path: Path) -> None:
    helps = [f"{name.replace('_', '-')} --help" for name in names()]
    commands = ["--version", "--help", *helps, *COMMANDS]
    done = start(tmp_path, commands)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("done: ") == len(commands)
    assert (tmp_path / "data" / "plays" / "text.txt").read_bytes() == b"To be."


@pytest.mark.slow
def test_workers_need_nothing_that_only_posix_has(tmp_path: Path) -> None:
    done = start(tmp_path, WITH_WORKERS)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("done: ") == len(WITH_WORKERS)


def test_every_command_is_among_those_that_are_run() -> None:
    run = {line.split()[0] for line in COMMANDS + WITH_WORKERS}
    assert run == {name.replace("_", "-") for name in names()}
