"""The arena's methods and record: what was stopped goes on."""

import json
import math
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from normball.cli.app import run as call
from normball.cli.options import parse_time
from normball.lab.arena import run as one_run
from normball.lab.arena.methods import METHODS, MuonAdamW
from normball.lab.arena.protocol import Protocol
from normball.lab.arena.record import RECORD, Row
from normball.lab.arena.tasks import TASKS
from normball.lab.arena.work import work
from normball.lab.errors import LabError
from normball.lab.rows import from_line, open_folder, to_line
from normball.lab.workers import Engine, Local
from tests.command import members, wait_for
from tests.lab.arena import measure, row

ROOT = Path(__file__).parents[2]
RULES = Protocol(
    tasks=("digits", "table"),
    methods=("adamw", "untuned"),
    settings=2,
    extensions=0,
    judge=(0, 1),
    budget=0.02,
)


# -- methods ---------------------------------------------------------------------------------------


@pytest.mark.usefixtures("sets")
@pytest.mark.parametrize(
    ("method", "task"),
    [
        (method, task)
        for method in METHODS
        for task in ("lstm", "digits", "lora")
        if (method, task) != ("prodigy", "lora")  # where it still warms up
    ],
)
def test_every_method_trains(method: str, task: str, monkeypatch: pytest.MonkeyPatch) -> None:
    measure(monkeypatch, 1)
    found = METHODS[method]
    losses: list[float] = []
    result = one_run(
        task,
        lambda model, steps: found.make(model, found.value(0), steps),
        0,
        20 / TASKS[task].steps,
        schedule=found.schedule,
        on_step=lambda step, loss, optimizer: losses.append(loss),
    )
    assert math.isfinite(result["score"])
    assert result["loss"] < losses[0]
    assert result["state_bytes"] > 0


@pytest.mark.usefixtures("sets")
def test_the_state_is_counted_in_full(monkeypatch: pytest.MonkeyPatch) -> None:
    measure(monkeypatch, 1)
    numbers = sum(p.numel() for p in TASKS["digits"].build().parameters())

    def state(method: str) -> int:
        found = METHODS[method]
        make = lambda model, steps: found.make(model, found.value(0), steps)  # noqa: E731
        return one_run("digits", make, 0, 0.005)["state_bytes"]

    assert state("adamw") == 8 * numbers
    assert state("scion") == 4 * numbers
    assert state("anytime") == 8 * numbers
    assert state("soap") > 8 * numbers + 4 * 512**2  # a square for each side, in lists


def test_muon_sees_kernels_as_matrices_and_leaves_the_rest_to_adamw() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.Conv2d(4, 6, 3), nn.Flatten(), nn.Linear(6, 5), nn.Linear(5, 2)
    )
    optimizer = MuonAdamW(model, 0.01)
    before = model[1].weight.detach().clone()
    model(torch.randn(3, 1, 5, 5)).square().sum().backward()
    # torch's own optimizer on the same matrix.
    twin = nn.Parameter(before.reshape(6, 36).clone())
    twin.grad = model[1].weight.grad.reshape(6, 36).clone()
    torch.optim.Muon([twin], lr=0.01, weight_decay=0.1, adjust_lr_fn="match_rms_adamw").step()
    optimizer.step()
    assert torch.equal(model[1].weight.detach().reshape(6, 36), twin.detach())
    shapes = [p.shape for group in optimizer.parts[0].param_groups for p in group["params"]]
    assert shapes == [(6, 36), (5, 6)]
    assert len(optimizer.parts[1].state) == 6
    optimizer.zero_grad()
    assert all(p.grad is None for p in model.parameters())


def test_schedules() -> None:
    cosine = METHODS["adamw"].schedule
    assert cosine(0.0) < 0.03
    assert cosine(0.05) == pytest.approx((1 + math.cos(0.05 * math.pi)) / 2)
    assert cosine(1.0) == pytest.approx(0, abs=1e-9)
    assert METHODS["decay"].schedule(0.25) == 0.75
    assert METHODS["anytime"].schedule is METHODS["untuned"].schedule is None


# -- the record ------------------------------------------------------------------------------------


def test_rows_come_back_as_they_were() -> None:
    made = row("muon", 0.1, 3, 2.5)
    assert from_line(to_line(made), Row) == made
    lost = row("muon", 0.1, 3, math.inf, curve=[(5, 1.0)])
    line = to_line(lost)
    assert b"Infinity" not in line
    assert from_line(line, Row) == lost


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda v: v["run"].pop("seed"), "seed"),
        (lambda v: v["result"].update(steps=-1), "steps"),
        (lambda v: v["result"].update(seconds="x"), "seconds"),
        (lambda v: v.update(schema="other"), "schema"),
        (lambda v: v["result"].update(more=1), "more"),
    ],
)
def test_another_line_is_refused_and_the_file_left_alone(
    tmp_path: Path, change: Callable[[dict[str, Any]], object], message: str
) -> None:
    values = json.loads(to_line(row("muon", 0.1, 3, 2.5)))
    change(values)
    content = to_line(row("muon", 0.1, 3, 2.5)) + json.dumps(values).encode() + b"\n"
    (tmp_path / RECORD).write_bytes(content)
    with (
        pytest.raises(LabError, match=f"line 2 is no finished run of this program: .*{message}"),
        open_folder(tmp_path, Row),
    ):
        pass
    assert (tmp_path / RECORD).read_bytes() == content


def test_a_run_twice_is_refused_and_a_torn_line_cut_off(tmp_path: Path) -> None:
    made = row("muon", 0.1, 3, 2.5)
    (tmp_path / RECORD).write_bytes(to_line(made) + to_line(made)[:70])
    with open_folder(tmp_path, Row) as folder:
        assert folder.rows == [made]
        assert (tmp_path / RECORD).read_bytes() == to_line(made)
        folder.append(made)
    with (
        pytest.raises(LabError, match=r"line 2 .* repeats the run of line 1"),
        open_folder(tmp_path, Row),
    ):
        pass


def rows_of(folder: Path) -> list[Row]:
    with open_folder(folder, Row) as held:
        return held.rows


def sitting(
    folder: Path, engine: Engine, tasks: tuple[str, ...] = RULES.tasks, **more: Any
) -> bool:
    """A sitting with all methods: whether nothing is missing after it."""
    with open_folder(folder, Row) as held:
        return work(RULES, held, tasks, RULES.methods, engine, **more)


def numbers(folder: Path) -> dict[Any, Any]:
    """All that does not depend on how fast the machine is."""
    found = {}
    for one in rows_of(folder):
        result = asdict(one.result)
        del result["seconds"]
        found[one.run] = result
    return found


@pytest.mark.usefixtures("sets")
def test_what_was_stopped_goes_on_to_the_same_rows(tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert sitting(whole, Local(2))
    # Two tasks of two settings and two seeds, and two seeds untuned.
    assert len(rows_of(whole)) == 2 * (4 + 2)

    assert not sitting(parts, Local(1), seconds=0.0)
    assert sitting(parts, Local(1), ("table",))
    assert len(rows_of(parts)) == 6

    def stop(made: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sitting(parts, Local(1), say=stop)
    assert len(rows_of(parts)) == 7
    assert sitting(parts, Local(1))
    assert numbers(parts) == numbers(whole)
    assert sitting(parts, Local(1))
    assert len(rows_of(parts)) == 12


def test_a_killed_sitting_leaves_whole_rows_and_no_workers(sets: Path, tmp_path: Path) -> None:
    script = (
        "from pathlib import Path\n"
        "from normball.lab.workers import Local\n"
        "from tests.lab.test_arena_runs import sitting\n"
        "if __name__ == '__main__':\n"
        f"    sitting(Path({str(tmp_path)!r}), Local(1))\n"
    )
    (tmp_path / "go.py").write_text(script)
    process = subprocess.Popen(
        [sys.executable, str(tmp_path / "go.py")],
        start_new_session=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "src")])},
    )
    wait_for(lambda: (tmp_path / RECORD).exists() or process.poll() is not None)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    wait_for(lambda: not members(process.pid))
    kept = len(rows_of(tmp_path))
    assert 0 < kept < 12
    assert sitting(tmp_path, Local(1))
    assert len(rows_of(tmp_path)) == 12


# -- the command -----------------------------------------------------------------------------------


@pytest.mark.usefixtures("sets")
def test_the_command_declares_runs_and_reports(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("normball.cli.commands.arena.quick_rules", lambda: RULES)
    out = tmp_path / "out"
    argv = ["arena", "--out", str(out), "--quick", "--jobs", "1"]
    assert call([*argv, "--tasks", "table", "--methods", "untuned", "--budget", "0s"]) == 0
    assert "Time is up" in capsys.readouterr().out
    assert json.loads((out / "protocol.json").read_bytes())["judge"] == [0, 1]
    assert call([*argv, "--tasks", "table", "--methods", "untuned"]) == 0
    printed = capsys.readouterr().out
    assert printed.count("table, Clipped Scion, untuned, 0.015625, seed") == 2
    assert "All runs are there" in printed
    assert (out / "arena.html").stat().st_size > 1000
    monkeypatch.setattr(
        "normball.cli.commands.arena.quick_rules", lambda: replace(RULES, judge=(1, 2))
    )
    assert call(argv) == 2
    assert "declares other rules (judge)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--budget", "60"], "--budget must be a time such as 90s, 60m or 3h, got '60'"),
        (["--quick", "--demo"], "--quick and --demo are different rules"),
        (["--tasks", "digit"], "no task 'digit' in this arena"),
        (["--methods", "sgd"], "no method 'sgd' in this arena"),
        (["--jobs", "0"], "--jobs must be 1 or more"),
    ],
)
def test_a_wrong_call_is_refused_before_anything_is_written(
    argv: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(["arena", "--out", str(tmp_path / "out"), *argv]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_times() -> None:
    assert [parse_time("--budget", text) for text in ("90s", "1.5m", "3 h")] == [
        90.0,
        90.0,
        10_800.0,
    ]
