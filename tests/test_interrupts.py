"""Commands that are killed or get Ctrl-C: what they keep, say and leave behind."""

import json
import os
import re
import signal
import subprocess
from pathlib import Path

import pytest

from normball.cli.screen import SweepScreen
from normball.lab.rows import ROWS, open_folder
from normball.lab.train import Trainer
from tests.command import PATIENCE, call, members, start, wait_for

TINY = ["--seeds", "0,1", "--lr", "2^-6,2^-5", "--optimizers", "adam,scion,clipped-scion"]
TINY += ["--epochs", "2"]
RUNS = 12


def sweep(out: Path) -> subprocess.Popen[str]:
    return start("sweep", "digits", "--out", str(out), *TINY, "--jobs", "2")


def lines(out: Path) -> list[bytes]:
    record = out / ROWS
    return record.read_bytes().splitlines(keepends=True) if record.exists() else []


def test_a_killed_sweep_goes_on_where_it_was(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    process = sweep(tmp_path)
    wait_for(lambda: lines(tmp_path) or process.poll() is not None)
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    # The workers notice that their parent is gone.
    wait_for(lambda: not members(process.pid))
    kept = lines(tmp_path)
    assert 0 < len(kept) < RUNS

    with (tmp_path / ROWS).open("ab") as record:
        record.write(kept[0][:100])
    assert call("sweep", "digits", "--out", str(tmp_path), *TINY, "--jobs", "2") == 0
    printed, errors = capsys.readouterr()
    assert errors == ""
    assert "torn by an interruption and has been dropped" in printed
    assert f"{len(kept)} of {RUNS} runs are finished already and kept" in printed
    assert len(re.findall(r"/12 runs  .* in [\d.]+ s\n", printed)) == RUNS - len(kept)
    assert str(tmp_path / "report.html") in printed

    after = lines(tmp_path)
    assert after[: len(kept)] == kept
    configs = [json.dumps(json.loads(line)["config"], sort_keys=True) for line in after]
    assert len(configs) == len(set(configs)) == RUNS
    with open_folder(tmp_path) as folder:
        made = folder.rows[-1]
    assert Trainer(made.config).run().trace == made.result.trace


def interrupt_inside(screen: SweepScreen) -> None:
    screen._console._enter_buffer()
    raise KeyboardInterrupt


def test_ctrl_c_in_the_midst_of_a_print_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """An interrupt inside of rich leaves the buffer of its console open: it prints no more."""

    monkeypatch.setattr("normball.cli.screen.SweepScreen.__enter__", interrupt_inside)
    assert call("sweep", "digits", "--out", str(tmp_path), *TINY) == 130
    printed, errors = capsys.readouterr()
    assert f"Interrupted: 0 of {RUNS} runs are kept" in printed
    assert errors == ""


def test_ctrl_c_ends_cleanly(tmp_path: Path) -> None:
    process = sweep(tmp_path)
    wait_for(lambda: lines(tmp_path) or process.poll() is not None)
    os.killpg(process.pid, signal.SIGINT)
    printed, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130
    assert errors == ""
    kept = len(lines(tmp_path))
    assert f"Interrupted: {kept} of {RUNS} runs are kept" in printed
    assert "The same command goes on" in printed
    assert not (tmp_path / "report.html").exists()
    wait_for(lambda: not members(process.pid))


def test_ctrl_c_ends_rates_at_once(tmp_path: Path) -> None:
    """Hours are left to do."""
    process = start("rates", "--out", str(tmp_path / "out"), "--n", "1000000", "--jobs", "2")
    # Itself, the tracker of multiprocessing, and two workers.
    wait_for(lambda: len(members(process.pid)) >= 4 or process.poll() is not None)
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130
    assert "normball: interrupted." in errors
    wait_for(lambda: not members(process.pid))
    assert not (tmp_path / "out" / "rates.md").exists()


def test_a_kill_of_rates_ends_its_workers(tmp_path: Path) -> None:
    process = start("rates", "--out", str(tmp_path / "out"), "--n", "1000000", "--jobs", "2")
    wait_for(lambda: len(members(process.pid)) >= 4 or process.poll() is not None)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    wait_for(lambda: not members(process.pid))
    process.communicate()
