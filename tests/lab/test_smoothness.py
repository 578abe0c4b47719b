"""The smoothness command: measured, fitted, drawn, and harmless to the training."""

import json
from pathlib import Path

import pytest
import torch

from normball.lab.errors import LabError
from normball.lab.smoothness import fit_run, record
from normball.lab.train import Trainer
from normball.optim.probe import Fit
from tests.command import call
from tests.lab.samples import config


def test_a_probed_run_is_the_run() -> None:
    plain, probed = (
        Trainer(config("clipped-scion")),
        Trainer(config("clipped-scion"), probe_every=3),
    )
    a, b = plain.run(), probed.run()
    assert a.trace == b.trace
    weights = probed.state.model.state_dict()
    assert all(torch.equal(v, weights[k]) for k, v in plain.state.model.state_dict().items())


def test_too_little_to_fit() -> None:
    trainer = Trainer(config("scion", lr=1e20, epochs=1), probe_every=1)
    trainer.run()
    assert trainer.probe is not None
    with pytest.raises(LabError, match=r"got 0: train longer, .*--every"):
        fit_run(trainer.probe)
    with pytest.raises(LabError, match="adam has no norms to measure in"):
        Trainer(config("adam"), probe_every=1)
    # Said before anything is trained.
    with pytest.raises(LabError, match=r"--every 11 measures 2 of the 22 steps, .* needs three"):
        Trainer(config("scion", epochs=2), probe_every=11)
    Trainer(config("scion", epochs=2), probe_every=10)


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["smoothness", "digits", "--epochs", "3", "--every", "2", "--out", str(tmp_path)]
    assert call(*argv) == 0
    printed = capsys.readouterr().out
    measured = json.loads((tmp_path / "smoothness.json").read_text(encoding="utf-8"))
    assert len(measured["samples"]["L"]) == 17  # every second of 3 x 11 steps
    assert measured["fit"]["count"] == 17
    assert f"L0 = {measured['fit']['l0']:.4g}" in printed
    suggested = measured["suggestion"]
    assert suggested["rho"] == pytest.approx(suggested["lr"] * measured["fit"]["l0"])
    assert all(len(pairs["L"]) == 17 for pairs in measured["layers"].values())
    assert all(name in printed for name in measured["layers"])
    assert (tmp_path / "smoothness.png").read_bytes()[:4] == b"\x89PNG"
    assert (tmp_path / "smoothness.svg").read_text(encoding="utf-8").rstrip().endswith("</svg>")
    assert call("smoothness", "digits", "--every", "0") == 2
    assert "--every must be 1 or more, got 0" in capsys.readouterr().err


@pytest.mark.parametrize("changed", [("--seed", "1"), ("--schedule", "linear"), ("--lr", "0.5")])
def test_measurements_of_another_run_are_not_written_over(
    changed: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ("smoothness", "digits", "--train-size", "200", "--batch-size", "50", "--every", "1")
    argv = (*argv, "--epochs", "1", "--out", str(tmp_path))
    assert call(*argv) == 0
    before = {path: path.read_bytes() for path in tmp_path.glob("smoothness.*")}
    assert call(*argv, *changed) == 2
    assert "smoothness.json has the measurements of another run" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in before} == before
    assert call(*argv) == 0  # the same run may be measured again
    (tmp_path / "smoothness.json").write_bytes(b"of something else")
    assert call(*argv) == 2
    assert (tmp_path / "smoothness.json").read_bytes() == b"of something else"


def test_the_record_is_valid_json_whatever_was_measured() -> None:
    trainer = Trainer(config("scion", lr=1e20, epochs=1), probe_every=1)
    result = trainer.run()
    assert trainer.probe is not None
    fit = Fit(0.0, 0.0, (0.0, float("inf")), (0.0, float("nan")), float("nan"), 3)

    def refuse(word: str) -> None:
        pytest.fail(f"{word} is no JSON")

    read = json.loads(record(trainer.config, result, trainer.probe, fit), parse_constant=refuse)
    assert read["fit"]["l0_interval"] == [0.0, None]
    assert None in read["samples"]["L"]
