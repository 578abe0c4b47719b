"""Thresholds narrowed by successive halving: what goes on, and what is run in all."""

from dataclasses import replace

import pytest

from normball.lab.config import RunConfig
from normball.lab.halving import next_stage
from normball.lab.optimizers import configure
from normball.lab.reproduce import load_experiment, read_experiment
from normball.lab.rows import Row
from normball.lab.tasks import find_task
from tests.command import call
from tests.lab.samples import RESULT
from tests.lab.test_reproduce import FIGURE, PART

DIGITS = find_task("digits")
STEPS = (2.0**-5, 2.0**-3)
THRESHOLDS = (1.0, 2.0, 4.0, 8.0, 16.0)
# The best threshold grows with the step, as in the paper's figure 3.
BEST = {STEPS[0]: 2.0, STEPS[1]: 8.0}


def grid() -> tuple[RunConfig, ...]:
    clipped = [
        configure(DIGITS, "clipped-scion", seed=0, lr=lr, rho=rho, epochs=8)
        for lr in STEPS
        for rho in THRESHOLDS
    ]
    return (*clipped, configure(DIGITS, "scion", seed=0, lr=STEPS[0], epochs=8))


def row(config: RunConfig) -> Row:
    """The nearer the threshold to the best one (as a ratio), the better; longer runs are better."""
    far = max(config.rho / BEST[config.lr], BEST[config.lr] / config.rho) if config.rho else 3
    return Row(config, replace(RESULT, score=0.9 - 0.05 * far + 0.001 * config.epochs), {}, "A box")


def carry_out(rungs: tuple[int, ...]) -> tuple[list[Row], list[tuple[RunConfig, ...]]]:
    rows: list[Row] = []
    stages = []
    while any(
        c.key() not in {r.config.key() for r in rows} for c in next_stage(grid(), rungs, rows)
    ):
        stages.append(next_stage(grid(), rungs, rows))
        rows += [row(config) for config in stages[-1]]
    return rows, stages


def thresholds(stage: tuple[RunConfig, ...], lr: float) -> set[float]:
    return {c.rho for c in stage if c.lr == lr and c.optimizer == "clipped-scion"}


def test_without_rungs_all_runs_have_full_length() -> None:
    _, (stage,) = carry_out(())
    assert stage == grid()


def test_each_rung_halves_the_thresholds_at_each_step_size() -> None:
    _, stages = carry_out((2, 4))
    assert [{c.epochs for c in stage} for stage in stages] == [{2}, {4}, {8}]
    for lr, best in BEST.items():
        assert [len(thresholds(stage, lr)) for stage in stages] == [5, 2, 1]
        assert thresholds(stages[-1], lr) == {best}


def test_an_optimizer_without_threshold_keeps_its_steps() -> None:
    _, stages = carry_out((2, 4))
    assert all(any(c.optimizer == "scion" for c in stage) for stage in stages)


def test_a_rung_is_asked_for_until_it_is_whole_in_any_order_of_its_rows() -> None:
    rows, stages = carry_out((2,))
    first = [r for r in rows if r.config.epochs == 2]
    assert next_stage(grid(), (2,), first[:-1]) == stages[0]
    assert next_stage(grid(), (2,), first[::-1]) == stages[1]


def test_the_command_runs_the_rungs_and_then_what_is_left(tmp_path, capsys, monkeypatch) -> None:
    runs = [{"optimizer": "clipped-scion", "lr": ["2^-6"], "rho": [4.0, 16.0]}]
    settings = {"train_size": 256, "test_size": 64, "epochs": 2, "batch_size": 64}
    part = PART | {"runs": runs, "settings": settings, "rungs": [1], "seeds": 1, "charts": ["heat"]}
    made = read_experiment("fig5", "cpu", FIGURE | {"cpu": part})
    monkeypatch.setattr("normball.cli.commands.reproduce.load_experiment", lambda *_: made)
    for expected in ("3 runs in", "0 runs in"):
        assert call("reproduce", "fig5", "--out", str(tmp_path / "x"), "--jobs", "1") == 1
        told = capsys.readouterr().out
        assert expected in told
        assert "--until-decided adds them" in told


@pytest.mark.parametrize("name", ["fig1", "fig3"])
def test_images_are_run_for_as_many_steps_as_the_paper_takes(name: str) -> None:
    made = load_experiment(name, "cpu")
    assert {c.train_size * c.epochs // c.batch_size for c in made.configs} == {1600}
