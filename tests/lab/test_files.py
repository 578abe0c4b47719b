"""Writes that the system cuts off, at any byte: files stay whole, and the error is one line."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from normball.lab.checkpoints import Checkpoints
from normball.lab.errors import LabError
from normball.lab.files import append_line, whole_file, write_whole
from normball.lab.train import Trainer
from tests.lab.samples import config

resource = pytest.importorskip("resource")  # not on Windows


@contextmanager
def at_most(size: int) -> Iterator[None]:
    """Let the system refuse to make a file longer than `size`, as it does on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def refused(target: Path) -> pytest.RaisesExc[LabError]:
    return pytest.raises(LabError, match=rf"^cannot write (to )?{target}: File too large\.$")


@pytest.mark.parametrize("size", [0, 1, 700, 4096, 10_000, 40_000, 99_999])
def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(size: int, tmp_path: Path) -> None:
    target = write_whole(tmp_path / "file", b"old")
    with at_most(size), refused(target):
        write_whole(target, bytes(100_000))
    with at_most(size), refused(target), whole_file(target) as file:
        torch.save({"a": torch.zeros(12_600), "b": torch.zeros(12_600)}, file)
    assert target.read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def write_and_raise(target: Path, error: BaseException) -> None:
    with whole_file(target) as file:
        file.write(b"new")
        raise error


def test_another_error_passes_and_leaves_the_old_file(tmp_path: Path) -> None:
    target = write_whole(tmp_path / "file", b"old")
    for error in (KeyboardInterrupt(), RuntimeError("not of the disk"), ValueError()):
        with pytest.raises(type(error)):
            write_and_raise(target, error)
    assert target.read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("more", [0, 1, 17, 99])
def test_a_line_that_does_not_fit_is_not_begun(more: int, tmp_path: Path) -> None:
    record = tmp_path / "rows"
    kept = b"x" * 49 + b"\n"
    append_line(record, kept)
    with at_most(50 + more), refused(record):
        append_line(record, b"y" * 99 + b"\n")
    assert record.read_bytes() == kept
    with at_most(150):
        append_line(record, b"y" * 99 + b"\n")
    assert record.read_bytes() == kept + b"y" * 99 + b"\n"


def limited(size: int, *argv: str) -> subprocess.CompletedProcess[str]:
    code = (
        "import resource, sys\n"
        "from normball.cli import main\n"
        "if __name__ == '__main__':\n"
        f"    resource.setrlimit(resource.RLIMIT_FSIZE, ({size}, {size}))\n"
        "    main(sys.argv[1:])"
    )
    return subprocess.run(
        [sys.executable, "-c", code, *argv],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONDONTWRITEBYTECODE": "1"},
    )


GRID = ("--optimizers", "scion", "--lr", "2^-6,2^-5", "--seeds", "0")
SMALL = ("--epochs", "3", "--train-size", "300")


@pytest.mark.parametrize(
    ("size", "argv", "file"),
    [
        (50_000, ("train", "digits", "--optimizer", "scion", *SMALL, "--out", "OUT"), "epoch"),
        (300, ("train", "digits", "--optimizer", "scion", *SMALL, "--tensorboard", "OUT"), "event"),
        (5_000, ("find-lr", "digits", "--train-size", "300", "--out", "OUT"), "find-lr.svg"),
        (900, ("smoothness", "digits", "--every", "1", *SMALL, "--out", "OUT"), "smoothness.json"),
        (
            1_500,
            ("sweep", "digits", *SMALL, *GRID, "--jobs", "1", "--out", "OUT"),
            "rows.jsonl",
        ),
    ],
)
def test_a_full_disk_is_one_line_in_every_command(
    size: int, argv: tuple[str, ...], file: str, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    done = limited(size, *(str(out) if word == "OUT" else word for word in argv))
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("normball: cannot write ")
    assert done.stderr.endswith(": File too large.\n")
    assert file in done.stderr
    assert done.stderr.count("\n") == 1
    assert all(path.suffix != ".new" for path in out.rglob("*"))
    for record in out.glob("*.jsonl"):
        (line,) = record.read_text().splitlines()
        assert json.loads(line)["config"]["lr"] == 2.0**-6


def test_a_checkpoint_that_does_not_fit_leaves_those_before_it(tmp_path: Path) -> None:
    store = Checkpoints(tmp_path, config(epochs=2))
    trainer = Trainer(config(epochs=2))
    first = store.save(trainer)
    content = first.read_bytes()
    trainer.run()
    with at_most(len(content) // 2), pytest.raises(LabError, match=r"epoch-000002.pt: File too"):
        store.save(trainer)
    assert [path.read_bytes() for path in store.path.iterdir()] == [content]
