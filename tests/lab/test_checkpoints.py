"""Stopped anywhere and gone on with, a run ends at the weights of an unbroken one."""

import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from normball.cli import main
from normball.lab.checkpoints import Checkpoints
from normball.lab.errors import LabError
from normball.lab.train import Trainer
from tests.lab.samples import config

RUNS: dict[str, dict[str, Any]] = {
    "adam": {"optimizer": "adam"},
    "scion": {"optimizer": "scion", "schedule": "linear"},
    "clipped-scion": {"optimizer": "clipped-scion", "schedule": "linear"},
    "constrained": {"optimizer": "clipped-scion", "constrained": True, "lr": 2.0**-8},
}


def same(a: dict[str, Any], b: dict[str, Any]) -> bool:
    return all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("name", RUNS)
def test_a_run_cut_after_every_epoch_is_the_unbroken_one(name: str, tmp_path: Path) -> None:
    settings = config(epochs=4, **RUNS[name])
    whole = Trainer(settings)
    result = whole.run()
    store = Checkpoints(tmp_path, settings)
    for epoch in range(4):
        trainer, file = store.resume(pytest.fail)
        assert (file is None) == (epoch == 0)
        assert trainer.state.epoch == epoch
        torch.manual_seed(epoch)  # whatever the process drew before

        class Cut(Exception):
            pass

        def cut(_: object, trainer: Trainer = trainer, cut: type[Exception] = Cut) -> None:
            store.save(trainer)
            raise cut

        with pytest.raises(Cut):
            trainer.run(cut)
    trainer, _ = store.resume(pytest.fail)
    again = trainer.run()
    assert same(whole.state.model.state_dict(), trainer.state.model.state_dict())
    assert again.trace == result.trace
    assert again.losses == result.losses
    assert (again.clipped_share, again.skipped) == (result.clipped_share, result.skipped)
    assert len(store.files()) == 2


def test_the_schedule_reaches_zero() -> None:
    trainer = Trainer(config("scion", lr=0.01, schedule="linear"))
    steps = []
    trainer.state.optimizer.register_step_pre_hook(
        lambda optimizer, *_: steps.append(optimizer.param_groups[0]["lr"])
    )
    trainer.run()
    assert steps[0] == 0.01
    assert steps == pytest.approx([0.01 * (1 - i / len(steps)) for i in range(len(steps))])
    with pytest.raises(LabError, match=r"unknown schedule 'linaer': did you mean 'linear'"):
        config("scion", schedule="linaer")


def with_two_checkpoints(folder: Path) -> tuple[Checkpoints, Path, Path]:
    settings = config(epochs=3)
    store = Checkpoints(folder, settings)
    trainer = Trainer(settings)
    trainer.run(lambda _: store.save(trainer))
    newest, older = store.files()
    return store, newest, older


def spoil(file: Path, how: str) -> None:
    content = file.read_bytes()
    if how == "cut":
        file.write_bytes(content[: len(content) // 2])
    elif how == "empty":
        file.write_bytes(b"")
    elif how == "noise":
        file.write_bytes(random.Random(0).randbytes(2000))
    elif how == "code":
        torch.save({"schema": "normball.checkpoint/1", "state": Path("/")}, file)
    else:
        loaded = torch.load(file, weights_only=True)
        if how == "other run":
            loaded["config"] = loaded["config"].replace('"seed": 0', '"seed": 1')
        elif how == "other program":
            loaded = {"model": loaded["state"]["model"]}
        elif how == "shape":
            name = next(iter(loaded["state"]["model"]))
            loaded["state"]["model"][name] = torch.zeros(1)
        elif how == "lacks":
            del loaded["state"]["order"]
        torch.save(loaded, file)


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("cut", "cannot be read"),
        ("empty", "cannot be read"),
        ("noise", "cannot be read"),
        ("code", "cannot be read"),
        ("other run", 'belongs to another run, .*"seed": 1'),
        ("other program", "does not say that its schema is"),
        ("shape", "state does not fit .*"),
        ("lacks", "state does not fit .*order"),
    ],
)
def test_a_bad_checkpoint_is_refused_by_name_and_the_one_before_used(
    how: str, reason: str, tmp_path: Path
) -> None:
    store, newest, older = with_two_checkpoints(tmp_path)
    spoil(newest, how)
    bytes_before = newest.read_bytes()
    said: list[str] = []
    trainer, file = store.resume(said.append)
    assert file == older
    assert trainer.state.epoch == 2
    (line,) = said
    assert line.startswith(f"{newest} is refused: ")
    assert re.search(reason, line)
    assert newest.read_bytes() == bytes_before
    trainer.run()
    assert same(trainer.state.model.state_dict(), whole_weights())


def whole_weights() -> dict[str, Any]:
    trainer = Trainer(config(epochs=3))
    trainer.run()
    return trainer.state.model.state_dict()


def test_a_full_disk_leaves_the_checkpoints_before_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, newest, older = with_two_checkpoints(tmp_path)
    kept = [newest.read_bytes(), older.read_bytes()]

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(LabError, match=r"cannot write .*epoch-000000\.pt: No space left"):
        store.save(Trainer(config(epochs=3)))
    assert [newest.read_bytes(), older.read_bytes()] == kept


def words(out: Path, epochs: int) -> list[str]:
    return [
        *("train", "digits", "--optimizer", "clipped-scion", "--schedule", "linear"),
        *("--epochs", str(epochs), "--out", str(out), "--resume"),
    ]


def train(out: Path, epochs: int) -> None:
    with pytest.raises(SystemExit) as end:
        main(words(out, epochs))
    assert end.value.code == 0


def final_weights(out: Path, epochs: int) -> dict[str, Any]:
    (file,) = (out / "checkpoints").glob(f"*/epoch-{epochs:06d}.pt")
    weights: dict[str, Any] = torch.load(file, weights_only=True)["state"]["model"]
    return weights


def kill_and_go_on(out: Path, kills: int, epochs: int, capsys: pytest.CaptureFixture[str]) -> None:
    """Kill the command at random moments of its work, each time after some progress."""
    moments = random.Random(kills)
    for number in range(kills):
        command = [sys.executable, "-m", "normball.cli", *words(out, epochs)]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        before = set(out.glob("checkpoints/*/epoch-*.pt"))
        while process.poll() is None and set(out.glob("checkpoints/*/epoch-*.pt")) == before:
            time.sleep(0.01)
        time.sleep(moments.uniform(0, 0.4))
        assert process.poll() is None, f"finished before kill {number}"
        process.send_signal(signal.SIGKILL)
        process.wait()
    train(out, epochs)
    assert "Going on from" in capsys.readouterr().out
    whole = out.with_name("whole")
    train(whole, epochs)
    assert same(final_weights(out, epochs), final_weights(whole, epochs))
    train(out, epochs)
    assert "This run is finished" in capsys.readouterr().out


def test_a_kill(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kill_and_go_on(tmp_path / "killed", 1, 20, capsys)


@pytest.mark.slow
def test_twenty_kills(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kill_and_go_on(tmp_path / "killed", 20, 200, capsys)
