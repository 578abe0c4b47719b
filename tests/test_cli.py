import io
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from rich.console import Console

from normball.cli.screen import SweepScreen
from normball.lab.results import EpochReport
from normball.lab.rows import ROWS, open_folder
from normball.lab.sweep import Plan, SweepEvent
from normball.lab.train import Trainer
from normball.lab.workers import Advanced, Finished, Started
from normball.theory.rates import Part
from normball.theory.verdicts import Row
from tests.command import call
from tests.lab.samples import config, row


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["tarin"], "'tarin'"),
        (["train"], "TASK"),
        (["train", "digit", "--optimizer", "adam"], "'digit': did you mean 'digits'?"),
        (["train", "digits"], "--optimizer"),
        (["train", "digits", "--optimizer", "adan"], "'adan': did you mean 'adam'?"),
        (["train", "digits", "--optimizer", "adam", "--rho", "3"], "--rho 3.0 does not apply"),
        (["train", "digits", "--optimizer", "adam", "--lr", "-1"], "--lr must be .* got '-1'"),
        (["train", "digits", "--optimizer", "adam", "--lr", "0"], "--lr must be .* got '0'"),
        (["train", "digits", "--optimizer", "adam", "--lr", "2^x"], "got '2\\^x'"),
        (["train", "digits", "--optimizer", "adam", "--lr", "2^9999"], "got '2\\^9999'"),
        (["train", "digits", "--optimizer", "adam", "--epochs", "x"], "--epochs .* got 'x'"),
        (["train", "digits", "--optimizer", "adam", "--epochs", "0"], "--epochs .* got 0"),
        (["train", "digits", "--optimizer", "scion", "--alpha", "y"], "--alpha .* got 'y'"),
        (["train", "digits", "--optimizer", "scion", "--alhpa", "1"], "--al"),
        (["sweep", "digits"], "--out"),
        (["sweep", "digits", "--out", "OUT", "--jobs", "0"], "--jobs .* got 0"),
        (["sweep", "digits", "--out", "OUT", "--seeds", "0,x"], "--seeds .* got 'x'"),
        (["sweep", "digits", "--out", "OUT", "--optimizers", "adam,sgd"], "'sgd'"),
        (["sweep", "digits", "--out", "OUT", "--optimizers", "adam,"], "empty name"),
        (["sweep", "digits", "--out", "FILE"], "FILE is a file"),
        (["sweep", "digits", "--out", "FILE/sub"], "FILE/sub"),
        (["sweep", "digits", "--out", "OUT", "--engine", "rays"], "'rays': did you mean 'ray'"),
        (["arena", "--out", "OUT", "--engine", "x"], "engine 'x': choose one of: local, ray"),
        (["sweep", "digits", "--out", "OUT", "--engine", "ray", "--jobs", "0"], "--jobs .* got 0"),
        (["find-lr", "digits", "--out", "FILE"], "FILE is a file"),
        (["rates", "--out", "FILE"], "FILE is a file"),
        (
            ["train", "digits", "--optimizer", "adam", "--tensorboard", "FILE/sub"],
            "cannot write to",
        ),
    ],
)
def test_a_wrong_call_gets_one_line_and_2(
    argv: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("FILE").write_text("")
    assert call(*argv) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith("normball: ")
    assert printed.err.count("\n") == 1
    assert re.search(message, printed.err)
    assert printed.out == ""
    assert not Path("OUT").exists()


def test_an_engine_that_is_not_installed_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delitem(sys.modules, "normball.lab.on_ray", raising=False)
    monkeypatch.setitem(sys.modules, "ray", None)
    assert call("sweep", "digits", "--out", str(tmp_path / "out"), "--engine", "ray") == 2
    assert 'needs Ray: pip install "normball[ray]"' in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_without_a_command_there_is_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert call() == 0
    assert "reproduce" in capsys.readouterr().out


def test_without_the_extra_there_is_a_hint() -> None:
    code = (
        "import sys\n"
        "for name in ('typer', 'rich', 'jinja2', 'matplotlib', 'sklearn'):\n"
        "    sys.modules[name] = None\n"
        "from normball.cli import main\n"
        "main(['--help'])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert 'pip install "normball[lab]"' in done.stderr
    assert done.stdout == ""


def test_an_older_torch_without_muon_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delattr(torch.optim, "Muon", raising=False)
    monkeypatch.setattr(torch, "__version__", "2.6.0")
    assert call("train", "digits", "--model", "mlp", "--optimizer", "muon") == 2
    printed = capsys.readouterr()
    assert printed.err.count("\n") == 1
    assert "came with torch 2.9, and this is torch 2.6.0" in printed.err
    assert printed.out == ""


def test_train_prints_its_result_and_keeps_its_row(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "[run]"
    argv = ["train", "digits", "--optimizer", "clipped-scion", "--lr", "2^-4", "--rho", "9"]
    argv += ["--epochs", "2", "--seed", "3", "--out", str(out)]
    assert call(*argv) == 0
    printed = capsys.readouterr().out
    with open_folder(out) as folder:
        (made,) = folder.rows
    assert (made.config.lr, made.config.rho, made.config.seed) == (2.0**-4, 9.0, 3)
    again = Trainer(made.config).run()
    assert made.result.trace == again.trace
    assert f"test accuracy {100 * again.score:.2f} %" in printed
    assert printed.count("epoch ") == 2
    assert str(out / ROWS) in printed
    content = (out / ROWS).read_bytes()
    assert call(*argv) == 2
    assert "has this run already" in capsys.readouterr().err
    assert (out / ROWS).read_bytes() == content


def test_a_full_disk_under_what_is_printed_is_one_line() -> None:
    command = [sys.executable, "-m", "normball.cli", "train", "digits", "--optimizer", "scion"]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [*command, "--epochs", "1"], stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert done.returncode == 2
    assert done.stderr.startswith("normball: [Errno 28] No space left on device.\n")
    assert "Traceback" not in done.stderr


def shell(line: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = f"'{sys.executable}' -m normball.cli {line}"
    return subprocess.run(
        ["sh", "-c", command],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | environment,
    )


@pytest.mark.skipif(os.name == "nt", reason="it needs a POSIX shell")
def test_output_that_is_closed_or_in_another_alphabet_ends_no_run(tmp_path: Path) -> None:
    out = tmp_path / "é☃"
    line = f"train digits --optimizer scion --epochs 1 --train-size 200 --out '{out}'"
    closed = shell(f"{line} --seed 1 >&-")
    assert (closed.returncode, closed.stderr) == (0, "")
    ascii_only = shell(f"{line} --seed 2", PYTHONIOENCODING="ascii")
    assert (ascii_only.returncode, ascii_only.stderr) == (0, "")
    assert r"\xe9\u2603/rows.jsonl" in ascii_only.stdout
    with open_folder(out) as folder:
        assert [made.config.seed for made in folder.rows] == [1, 2]


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"RANK": "a"}, "RANK is 'a' in the environment: start the command with torchrun"),
        ({"WORLD_SIZE": "two"}, "WORLD_SIZE is 'two' in the environment"),
        ({"RANK": "1"}, "RANK is 1, and WORLD_SIZE is 1"),
        ({"RANK": "-1", "WORLD_SIZE": "2"}, "RANK is -1, and WORLD_SIZE is 2"),
        ({"RANK": "1", "WORLD_SIZE": "2"}, r"cannot join 2 processes \(.*MASTER_ADDR"),
    ],
)
def test_half_of_a_torchrun_is_refused(
    environment: dict[str, str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name in ("MASTER_ADDR", "MASTER_PORT", "LOCAL_RANK", "RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert call("train", "digits", "--optimizer", "scion", "--epochs", "1") == 2
    printed = capsys.readouterr()
    assert re.search(message, printed.err)
    assert (printed.err.count("\n"), printed.out) == (1, "")


def test_a_diverged_run_is_a_result(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("train", "digits", "--optimizer", "adam", "--lr", "1e30", "--epochs", "3") == 0
    assert "diverged after 1 epoch" in capsys.readouterr().out


def test_a_folder_in_use_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with open_folder(tmp_path):
        assert call("sweep", "digits", "--out", str(tmp_path)) == 2
    assert "another run is at work" in capsys.readouterr().err


def test_other_settings_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with open_folder(tmp_path) as folder:
        folder.append(row())
    before = (tmp_path / ROWS).read_bytes()
    assert call("sweep", "digits", "--out", str(tmp_path), "--epochs", "3") == 2
    assert "--epochs 2, this sweep wants 3" in capsys.readouterr().err
    assert (tmp_path / ROWS).read_bytes() == before


class Pipe(io.StringIO):
    """A pipe with a reader, who sees what was flushed."""

    seen = ""

    def flush(self) -> None:
        self.seen = self.getvalue()


def test_runs_of_a_sweep_are_told_apart() -> None:
    runs = [config("clipped-scion", rho=rho, seed=s) for rho in (0.25, 16) for s in (0, 1)]
    runs += [config("scion"), config("scion", schedule="linear"), config("adam", lr=0.01)]
    assert len({run.describe() for run in runs}) == len(runs)
    assert runs[0].describe() == "clipped-scion, step 2^-5, rho 0.25, seed 0"


def test_a_pipe_gets_a_line_for_every_run_and_one_a_minute_between_them() -> None:
    pipe, now = Pipe(), [0.0]
    configs = (config(seed=0), config(seed=1))
    plan = Plan(configs, configs)
    report = EpochReport(1, 2, 0.5, 0.75, None, None, None, 1000.0)

    def after(seconds: float, event: SweepEvent) -> list[str]:
        now[0] += seconds
        said = len(pipe.seen)
        screen.on_event(event)
        return pipe.seen[said:].splitlines()

    with SweepScreen(plan, Console(file=pipe), lambda: now[0]) as screen:
        assert after(0, Started(0, configs[0])) == []
        assert after(59, Advanced(0, configs[0], report)) == []
        (line,) = after(1, Advanced(0, configs[0], report))
        assert line.startswith("0/2 runs  scion, step 2^-5, seed 0: epoch 1/2  loss 0.5000  ")
        assert after(30, Advanced(0, configs[0], report)) == []
        (line,) = after(29, Finished(0, configs[0], row()))
        assert line == "1/2 runs  scion, step 2^-5, seed 0: 90.0 % in 1.5 s"
        assert after(59, Advanced(0, configs[1], report)) == []
        assert len(after(100, Advanced(0, configs[1], report))) == 1


def test_rates_refuses_and_reports(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert call("rates", "--out", str(tmp_path), "--n", "50") == 2
    assert "n=50 must be at least 100" in capsys.readouterr().err

    def fails(
        out: Path, n: int, seeds: tuple[int, ...], jobs: int, on_part: Callable[[Part], None]
    ) -> bool:
        on_part(Part("smooth", "Sign", (Row("one", "Sign", True, 0.5),), 1, 24))
        (out / "rates.md").write_text(f"{n} {seeds} {jobs}")
        return False

    monkeypatch.setattr("normball.cli.commands.rates.run_rates", fails)
    argv = ("rates", "--out", str(tmp_path), "--n", "200", "--seeds", "1,2", "--jobs", "1")
    assert call(*argv) == 1
    printed = capsys.readouterr().out
    assert re.match(r"\[1/24\] smooth, Sign: 1 of 1 statements hold, after \d+ s\n", printed)
    assert "200 (1, 2) 1" in printed
    assert "NOT every statement holds" in printed
