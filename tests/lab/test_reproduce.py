import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from normball.lab.cells import make_cells, of
from normball.lab.charts import CHARTS, draw
from normball.lab.errors import LabError
from normball.lab.optimizers import OPTIMIZERS
from normball.lab.reproduce import (
    SCALES,
    conclude,
    figure_names,
    load_experiment,
    read_experiment,
    results_of,
)
from normball.lab.rows import ROWS, Row, open_folder, read_rows
from tests.command import call
from tests.lab.samples import RESULT, row

PART = {
    "about": "Two epochs.",
    "task": "digits",
    "charts": ["by-step", "heat"],
    "seeds": 2,
    "settings": {"epochs": 2},
    "runs": [
        {"optimizer": "scion", "lr": ["2^-5", "2^-4"]},
        {"optimizer": "clipped-scion", "lr": ["2^-5"], "rho": [4.0, 16.0]},
    ],
    "claims": [
        {"kind": "gain-of-best", "text": "Better.", "ours": "clipped-scion", "theirs": "scion"}
    ],
}
FIGURE = {"title": "A figure", "published": "Something.", "cpu": PART, "gpu": PART, "paper": PART}


def test_every_figure_of_the_paper_is_there_at_every_scale() -> None:
    assert figure_names() == tuple(f"fig{n}" for n in range(1, 12))
    for name in figure_names():
        for scale in SCALES:
            experiment = load_experiment(name, scale)
            keys = [config.key() for config in experiment.configs]
            assert len(keys) == len(set(keys)) > 0
            assert experiment.claims
            assert set(experiment.charts) <= set(CHARTS)
            seeds = [config.seed for config in experiment.configs]
            assert seeds == sorted(seeds)


def test_a_figure_is_every_combination_it_names() -> None:
    experiment = read_experiment("fig0", "cpu", FIGURE)
    found = [(c.seed, c.optimizer, c.lr, c.rho, c.epochs) for c in experiment.configs]
    each = [
        ("scion", 2.0**-5, None, 2),
        ("scion", 2.0**-4, None, 2),
        ("clipped-scion", 2.0**-5, 4.0, 2),
        ("clipped-scion", 2.0**-5, 16.0, 2),
    ]
    assert found == [(seed, *one) for seed in range(2) for one in each]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"more": 1}, r"fig0.toml, \[cpu\] lacks or does not know more"),
        ({"task": "digit"}, "did you mean 'digits'"),
        ({"runs": [{"optimizer": "scion", "lr": ["x"]}]}, "'x' is no step size"),
        ({"runs": [{"optimizer": "scion"}]}, "lr"),
        ({"runs": [{"optimizer": "scion", "lr": ["1"], "rho": [3.0]}]}, "--rho 3.0 does not apply"),
        ({"claims": [{"kind": "x"}]}, "a claim is not one"),
    ],
)
def test_a_figure_with_a_mistake_is_refused(change: dict, message: str) -> None:
    with pytest.raises(LabError, match=message):
        read_experiment("fig0", "cpu", FIGURE | {"cpu": PART | change})


def test_the_verdicts_are_written_beside_the_rows(tmp_path: Path) -> None:
    experiment = read_experiment("fig0", "cpu", FIGURE)
    with open_folder(tmp_path) as folder:
        for config in experiment.configs:
            score = 0.9 + 0.001 * config.seed + (0.05 if config.optimizer != "scion" else 0)
            folder.append(Row(config, replace(RESULT, score=score), {}, "A box"))
        # A run of another figure in the same folder changes nothing.
        folder.append(row("clipped-scion", percent=10.0, lr=0.125))
        verdicts = conclude(experiment, folder)
    assert [v.outcome for v in verdicts] == ["holds"]
    assert verdicts[0].finding.values == pytest.approx([5.0, 5.0])
    (values,) = results_of(tmp_path)
    assert values["verdicts"][0]["outcome"] == "holds"
    page = (tmp_path / "fig0.md").read_text(encoding="utf-8")
    assert "| Better. | holds: 5 points of accuracy" in page
    assert page.count("| Clipped Scion | 2^-5 |") == 2
    assert (tmp_path / "fig0.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"no json", "fig0.json is not valid JSON"),
        (b"\xff\xfe", "fig0.json is not valid JSON"),
        (b'{"schema": "normball.figure/1"}', "fig0.json lacks a part"),
        (b'{"schema": "normball.figure/1", "verdicts": 3}', "fig0.json lacks a part"),
    ],
)
def test_a_torn_record_of_a_figure_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "fig0.json").write_bytes(content)
    with pytest.raises(LabError, match=message):
        results_of(tmp_path)
    (tmp_path / "fig0.json").write_bytes(b'{"schema": "another"}')
    assert results_of(tmp_path) == []


def test_charts_draw_the_same_twice_and_refuse_what_they_do_not_know() -> None:
    rows = [
        row(name, lr, seed, 50 + 10 * seed + lr)
        for name in OPTIMIZERS
        for lr in (0.25, 0.5)
        for seed in range(2)
    ]
    cells = make_cells(rows)
    for name, spec in OPTIMIZERS.items():
        assert spec.label in draw(["by-step"], of(cells, name), "svg").decode()
    assert draw(list(CHARTS), cells, "svg") == draw(list(CHARTS), cells, "svg")
    with pytest.raises(LabError, match="unknown chart 'heatt': did you mean 'heat'"):
        draw(["heatt"], cells, "svg")


SWEEP = ["sweep", "digits", "--lr", "2^-5", "--rho", "4,16", "--seeds", "0,1", "--epochs", "3"]


def results(folder: Path) -> dict[str, tuple]:
    return {
        made.config.key(): (made.result.score, made.result.trace, made.result.losses)
        for made in read_rows(folder / ROWS)
    }


@pytest.mark.slow  # a sweep of fewer runs is killed in tests/test_interrupts.py
def test_a_sweep_that_is_killed_ends_with_the_rows_of_one_that_is_not(tmp_path: Path) -> None:
    whole, torn = tmp_path / "whole", tmp_path / "torn"
    assert call(*SWEEP, "--jobs", "1", "--out", str(whole)) == 0
    command = [sys.executable, "-m", "normball.cli", *SWEEP, "--jobs", "2", "--out", str(torn)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not (torn / ROWS).exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert len(results(torn)) < 6
    assert call(*SWEEP, "--jobs", "2", "--out", str(torn)) == 0
    assert results(torn) == results(whole)
    assert len(results(torn)) == 6
    assert (torn / "figure.png").exists()


def test_reproduce_ends_with_its_verdict(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def load(name: str, scale: str):
        assert (name, scale) == ("fig5", "cpu")
        return read_experiment(name, scale, FIGURE)

    monkeypatch.setattr("normball.cli.commands.reproduce.load_experiment", load)
    ended = call("reproduce", "fig5", "--out", str(tmp_path), "--jobs", "1")
    outcome = results_of(tmp_path)[0]["verdicts"][0]["outcome"]
    assert ended == (0 if outcome == "holds" else 1)
    printed = capsys.readouterr().out
    assert "Declared: Better." in printed
    assert outcome in printed
    assert len(read_rows(tmp_path / ROWS)) == 8
    before = (tmp_path / ROWS).read_bytes()
    assert call("reproduce", "fig5", "--out", str(tmp_path)) == ended
    assert (tmp_path / ROWS).read_bytes() == before


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["reproduce", "fig12", "--out", "x"], "unknown figure 'fig12'"),
        (["reproduce", "fig1", "--scale", "gpus", "--out", "x"], "did you mean 'gpu'"),
        (["sweep", "digits", "--optimizers", "adam", "--rho", "3", "--out", "x"], "none of adam"),
        (["sweep", "digits", "--lr", "1,1", "--out", "x"], "--lr has 1.0 twice"),
        (["sweep", "digits", "--model", "gpt-tiny", "--out", "x"], "not for images"),
        (
            ["train", "digits", "--optimizer", "scion", "--train-size", "9999"],
            "--train-size must be at most 1437",
        ),
        (
            ["train", "digits", "--optimizer", "scion", "--accumulate", "3"],
            "--accumulate must divide",
        ),
        (
            ["train", "digits", "--optimizer", "scion", "--precision", "fp8"],
            "unknown precision 'fp8'",
        ),
        (["fetch", "cifar"], "unknown data to fetch 'cifar'"),
        (["report", "nowhere"], "nowhere is no folder"),
    ],
)
def test_a_wrong_request_is_refused_by_name(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert call(*words) == 2
    assert message in capsys.readouterr().err


def test_the_report_holds_every_folder_and_needs_nothing_else(tmp_path: Path) -> None:
    results_folder = tmp_path / "results"
    experiment = read_experiment("fig3", "cpu", FIGURE)
    with open_folder(results_folder / "one") as folder:
        for config in experiment.configs:
            folder.append(Row(config, RESULT, {"torch": "2.13"}, "A box", "abc"))
        conclude(experiment, folder)
    # The report's own picture, which the page draws anew.
    (results_folder / "one" / "figure.svg").write_text("<svg/>")
    other = results_folder / "two"
    other.mkdir()
    (other / "README.md").write_bytes(b"# Notes <b> \xff")
    (other / "no-picture.png").mkdir()
    (other / "rows.jsonl").write_text('{"schema": "normball.bench/1"}\n')
    assert call("report", str(results_folder), "--out", str(tmp_path / "page.html")) == 0
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    for text in ("A figure", "Better.", "undecided", "Notes &lt;b&gt;", "A box", "abc", "2^-5"):
        assert text in page
    assert "http" not in page.replace("http://www.w3.org", "")
    assert 'src="data:image' in page
    assert "no-picture" not in page
    assert "figure.svg" not in page
    assert "good steps" in page


def test_several_processes_train_the_run_of_one(tmp_path: Path) -> None:
    """Far below the threshold, where a sign that rounding turns over moves next to nothing."""
    words = ["train", "digits", "--optimizer", "clipped-scion", "--rho", "300", "--epochs", "2"]
    assert call(*words, "--out", str(tmp_path / "one")) == 0
    run = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [*run, "-m", "normball.cli", *words, "--out", str(tmp_path / "two")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    (one,), (two,) = (read_rows(tmp_path / name / ROWS) for name in ("one", "two"))
    assert two.result.losses == pytest.approx(one.result.losses, rel=1e-4)
    assert two.result.score == pytest.approx(one.result.score, abs=0.01)
    assert two.result.trace == pytest.approx(one.result.trace, rel=1e-3)
