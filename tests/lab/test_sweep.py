import multiprocessing
from dataclasses import replace
from pathlib import Path

import pytest

from normball.lab.config import RunConfig
from normball.lab.errors import LabError, WorkerError
from normball.lab.rows import open_folder
from normball.lab.sweep import SweepEvent, make_plan, make_sweep, run_plan
from normball.lab.tasks import DIGITS
from normball.lab.train import Trainer
from normball.lab.workers import Advanced, Finished, Local, Started
from tests.lab.samples import config, row, run_all


def test_a_sweep_is_every_combination() -> None:
    found = [
        (run.seed, run.schedule, run.optimizer, run.lr, run.rho, run.epochs)
        for run in make_sweep(
            DIGITS,
            optimizers=("adam", "clipped-scion"),
            seeds=(4, 2),
            lr=(0.5, 0.25),
            rho=(3.0, 2.0),
            schedule=("linear", "constant"),
            epochs=7,
        )
    ]
    each = [
        ("adam", 0.25, None, 7),
        ("adam", 0.5, None, 7),
        ("clipped-scion", 0.25, 2.0, 7),
        ("clipped-scion", 0.25, 3.0, 7),
        ("clipped-scion", 0.5, 2.0, 7),
        ("clipped-scion", 0.5, 3.0, 7),
    ]
    schedules = ("linear", "constant")
    assert found == [(seed, steps, *one) for seed in (4, 2) for steps in schedules for one in each]


def test_a_sweep_without_wishes_is_the_tasks() -> None:
    grid = make_sweep(DIGITS, optimizers=("adam", "scion"), seeds=(0,))
    assert len(grid) == len({run.key() for run in grid})
    for name in ("adam", "scion"):
        assert {run.lr for run in grid if run.optimizer == name} == set(DIGITS.grid[name])
    assert {run.schedule for run in grid} == {"constant"}


@pytest.mark.parametrize(
    ("wish", "message"),
    [
        ({"optimizers": ("adam", "adam")}, "--optimizers has adam twice"),
        ({"seeds": (1, 1)}, "--seeds has 1 twice"),
        ({"seeds": ()}, "--seeds is empty"),
        ({"lr": (0.1, 0.1)}, "--lr has 0.1 twice"),
        ({"schedule": ("linear", "linear")}, "--schedule has linear twice"),
        ({"schedule": ("linear", "cosin")}, "unknown schedule 'cosin': did you mean 'cosine'"),
        ({"rho": (2.0,)}, r"--rho 2.0 applies to none of scion"),
        ({"optimizers": ("sion",)}, "did you mean 'scion'"),
        ({"optimizers": ("clipped-scion",), "rho": (-1.0,)}, "--rho .* got -1.0"),
    ],
)
def test_a_wish_that_makes_no_sense_is_refused(wish: dict, message: str) -> None:
    with pytest.raises(LabError, match=message):
        make_sweep(DIGITS, **{"optimizers": ("scion",), "seeds": (0,)} | wish)


def test_a_list_is_named_as_it_was_written() -> None:
    with pytest.raises(LabError, match=r"--rho 4\.0,16\.0 applies to none of adam"):
        make_sweep(DIGITS, optimizers=("adam",), seeds=(0,), rho=(4.0, 16.0))


def test_the_plan_leaves_out_what_is_done(tmp_path: Path) -> None:
    grid = tuple(config(seed=seed) for seed in range(3))
    with open_folder(tmp_path) as folder:
        folder.append(row(seed=1))
        folder.append(row("clipped-scion", lr=0.5, seed=9))
        # Another schedule and another threshold of the same optimizers join them.
        folder.append(replace(row(), config=config(schedule="linear")))
        folder.append(replace(row(), config=config("clipped-scion", rho=2.0)))
        plan = make_plan(grid, folder)
    assert [run.seed for run in plan.todo] == [0, 2]
    assert plan.kept == 1


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        ((config(epochs=3),), "--epochs 2, this sweep wants 3"),
        ((config("adam", batch_size=64),), "--batch-size 128, this sweep wants 64"),
        ((config("clipped-scion", alpha=0.1),), "--alpha 0.5, this sweep wants 0.1"),
    ],
)
def test_runs_with_other_settings_are_not_mixed(
    tmp_path: Path, grid: tuple[RunConfig, ...], message: str
) -> None:
    with open_folder(tmp_path) as folder:
        folder.append(row())
        with pytest.raises(LabError, match=message):
            make_plan(grid, folder)


def test_a_plan_is_run_in_processes_and_every_row_is_kept(tmp_path: Path) -> None:
    grid = tuple(config("clipped-scion", seed=seed, epochs=1) for seed in range(3))
    events: list[SweepEvent] = []
    with open_folder(tmp_path) as folder:
        run_plan(make_plan(grid[:1], folder), folder, engine=Local(1), on_event=events.append)
        run_plan(make_plan(grid, folder), folder, engine=Local(2), on_event=events.append)
    with open_folder(tmp_path) as folder:
        rows = {made.config.key(): made.result for made in folder.rows}
    assert len(rows) == len(grid)
    for run in grid:
        here = Trainer(run).run()
        there = rows[run.key()]
        assert there.trace == here.trace
        assert there.losses == here.losses
        assert there.score == here.score
        kinds = [type(event) for event in events if event.run == run]
        assert kinds == [Started, Advanced, Finished]


def test_a_failing_run_is_named_with_its_cause() -> None:
    # `configure` would give it a threshold.
    broken = replace(config("scion", lr=0.1, seed=6), optimizer="clipped-scion")
    with pytest.raises(WorkerError, match=r"(?s)step 0.1, seed 6.*Traceback.*rho"):
        list(run_all([broken], 1))


def test_what_a_run_cannot_do_is_said_without_a_traceback() -> None:
    with pytest.raises(LabError, match=r"^muon is for hidden matrices, .* cnn has none: .* mlp\.$"):
        list(run_all([config("muon")], 1))


def test_a_killed_worker_is_noticed_and_the_others_end() -> None:
    events = run_all([config(seed=seed, epochs=1000) for seed in range(2)], 2)
    assert isinstance(next(events), Started)
    assert isinstance(next(events), Started)
    victim = multiprocessing.active_children()[0]
    victim.kill()
    with pytest.raises(WorkerError, match=r"exit code -9.*--jobs"):
        list(events)
    assert multiprocessing.active_children() == []
