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

from normball.lab.checkpoints import Checkpoints
from normball.lab.errors import LabError
from normball.lab.train import Trainer
from tests import needs
from tests.command import call
from tests.lab.samples import config

RUNS: dict[str, dict[str, Any]] = {
    "adam": {"optimizer": "adam"},
    "scion": {"optimizer": "scion", "schedule": "linear"},
    "clipped-scion": {"optimizer": "clipped-scion", "schedule": "linear"},
    "constrained": {"optimizer": "clipped-scion", "constrained": True, "lr": 2.0**-8},
    "muon": {"optimizer": "muon", "model": "mlp", "schedule": "linear"},
}


def same(a: dict[str, Any], b: dict[str, Any]) -> bool:
    return all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("name", needs.optimizers(RUNS))
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


def test_later_checkpoints_that_are_refused_do_not_displace_new_ones(tmp_path: Path) -> None:
    store, newest, older = with_two_checkpoints(tmp_path)
    for file in (newest, older):
        spoil(file, "noise")
    said: list[str] = []
    trainer, file = store.resume(said.append)
    assert (file, len(said)) == (None, 2)
    seen = []
    trainer.run(lambda _: seen.append(store.save(trainer).exists()))
    assert seen == [True] * 3
    assert same(trainer.state.model.state_dict(), whole_weights())


# -- with other settings ---------------------------------------------------------------------------


def part_of_run(folder: Path, done: int, **settings: Any) -> None:
    """Leave the checkpoints of a run that was stopped after some epochs."""

    class Stopped(Exception):
        pass

    store = Checkpoints(folder, config(**settings))
    trainer = Trainer(config(**settings))

    def stop(_: object) -> None:
        store.save(trainer)
        if trainer.state.epoch == done:
            raise Stopped

    with pytest.raises(Stopped):
        trainer.run(stop)


@pytest.mark.parametrize(
    ("settings", "first", "done", "then"),
    [
        ({"optimizer": "clipped-scion"}, 2, 2, 4),
        ({"optimizer": "clipped-scion-auto"}, 3, 1, 4),
        ({"optimizer": "default"}, 3, 1, 4),
        ({"optimizer": "adam"}, 5, 3, 3),
        # The first half of both runs has steps of the full size.
        ({"optimizer": "scion", "schedule": "trapezoidal"}, 4, 2, 5),
    ],
)
def test_a_run_of_another_length_goes_on_as_if_unbroken(
    settings: dict[str, Any], first: int, done: int, then: int, tmp_path: Path
) -> None:
    part_of_run(tmp_path, done, epochs=first, **settings)
    (before,) = (tmp_path / "checkpoints").iterdir()
    kept = {file: file.read_bytes() for file in before.iterdir()}
    trainer, file = Checkpoints(tmp_path, config(epochs=then, **settings)).resume(pytest.fail)
    assert file == before / f"epoch-{done:06d}.pt"
    result = trainer.run()
    whole = Trainer(config(epochs=then, **settings))
    expected = whole.run()
    assert same(whole.state.model.state_dict(), trainer.state.model.state_dict())
    assert (result.losses, result.scores) == (expected.losses, expected.scores)
    assert {file: file.read_bytes() for file in before.iterdir()} == kept


@pytest.mark.parametrize(
    ("first", "changed"),
    [
        ({"schedule": "linear"}, {"epochs": 6}),
        ({"schedule": "cosine"}, {"epochs": 3}),
        ({"warmup": 0.3}, {"epochs": 6}),
        ({"schedule": "trapezoidal"}, {"epochs": 6}),
        ({}, {"epochs": 1}),
        ({}, {"lr": 2.0**-6}),
        ({}, {"seed": 1}),
        ({}, {"batch_size": 64}),
        ({}, {"model": "mlp"}),
    ],
)
def test_a_run_with_other_steps_does_not_go_on_from_there(
    first: dict[str, Any], changed: dict[str, Any], tmp_path: Path
) -> None:
    settings = {"epochs": 4} | first
    # A trapezoidal run's first 71.5 % are those of any longer one.
    part_of_run(tmp_path, 4 if first.get("schedule") == "trapezoidal" else 2, **settings)
    store = Checkpoints(tmp_path, config(**settings | changed))
    if changed == {"epochs": 1}:
        Checkpoints(tmp_path, config(**settings)).files()[-1].unlink()  # as after three epochs
    trainer, file = store.resume(pytest.fail)
    assert (trainer.state.epoch, file) == (0, None)
    ((there, _),) = store.others()
    assert there == config(**settings)


def argv(out: Path, **settings: Any) -> list[str]:
    given = {"optimizer": "scion", "epochs": 2, "train-size": 300} | settings
    return ["train", "digits", "--out", str(out), "--resume"] + [
        word for name, value in given.items() for word in (f"--{name}", str(value))
    ]


def test_a_changed_setting_is_refused_by_name_until_the_run_is_finished(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    assert call(*argv(out)) == 0
    record = out / "rows.jsonl"
    row = record.read_bytes()
    record.unlink()  # as if it had been stopped before its end
    kept = {file: file.read_bytes() for file in out.glob("checkpoints/*/*")}
    capsys.readouterr()
    for changed, message in (
        ({"lr": 0.5}, r"unfinished run with --lr 0.\d+, not 0.5: give the same settings"),
        ({"seed": 3, "train-size": 290}, "--seed 0, not 3, --train-size 300, not 290"),
        ({"schedule": "linear"}, "--schedule constant, not linear"),
    ):
        assert call(*argv(out, **changed)) == 2
        printed = capsys.readouterr()
        assert re.search(message, printed.err)
        assert (printed.err.count("\n"), printed.out) == (1, "")
    record.write_bytes(row)
    assert call(*argv(out, seed=3)) == 0
    printed = capsys.readouterr().out
    assert re.search(r"^Beginning at the first epoch, .* --seed 0, not 3. It is kept", printed)
    assert record.read_bytes().startswith(row)
    assert record.read_bytes().count(b"\n") == 2
    assert call(*argv(out, epochs=3)) == 0
    assert re.search(r"^Going on from .*, epoch 2 of 3\.\nepoch 3/3", capsys.readouterr().out)
    assert call(*argv(out, epochs=3, schedule="linear", seed=3)) == 0
    assert call(*argv(out, epochs=4, schedule="linear", seed=3)) == 0
    message = "--epochs 3, not 4, on which the step sizes of all its epochs depend"
    assert message in capsys.readouterr().out
    assert {file: file.read_bytes() for file in kept} == kept


def test_other_data_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    part_of_run(tmp_path, 1, epochs=3)
    monkeypatch.setattr(Trainer, "source", "other digits")
    with pytest.raises(LabError, match=r"was trained on other data, .*, than .* other digits"):
        Checkpoints(tmp_path, config(epochs=3)).resume(pytest.fail)


def words(out: Path, epochs: int) -> list[str]:
    return [
        *("train", "digits", "--optimizer", "clipped-scion", "--schedule", "linear"),
        *("--epochs", str(epochs), "--out", str(out), "--resume"),
    ]


def train(out: Path, epochs: int) -> None:
    assert call(*words(out, epochs)) == 0


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
