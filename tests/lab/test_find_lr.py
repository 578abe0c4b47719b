"""The find-lr command: a suggestion, a picture, and refusals in one line."""

from pathlib import Path

import pytest

from normball.lab.errors import LabError
from normball.lab.train import Trainer
from tests.command import call
from tests.lab.samples import config


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("find-lr", "digits", "--out", str(tmp_path)) == 0
    printed = capsys.readouterr().out
    # The best step of the recorded grid is 2^-5.
    assert "about 2^-5" in printed
    assert (tmp_path / "find-lr.png").read_bytes()[:4] == b"\x89PNG"
    assert (tmp_path / "find-lr.svg").read_text(encoding="utf-8").rstrip().endswith("</svg>")
    assert call("find-lr", "digits", "--optimizer", "adam") == 2
    assert "adam takes no steps of a given length" in capsys.readouterr().err


def test_a_run_goes_on_as_if_it_had_not_been_asked() -> None:
    asked, plain = Trainer(config("clipped-scion-auto")), Trainer(config("clipped-scion-auto"))
    asked.find_lr()
    assert asked.run().trace == plain.run().trace


def test_a_loss_that_never_falls() -> None:
    trainer = Trainer(config("scion"))
    for p in trainer.state.model.parameters():
        p.data.fill_(float("nan"))
    with pytest.raises(LabError, match="the loss never fell"):
        trainer.find_lr()
