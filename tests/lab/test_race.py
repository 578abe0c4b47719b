from dataclasses import replace

import pytest

from normball.lab.cells import make_cells
from normball.lab.race import TITLES, lines, race
from normball.lab.rows import Row
from tests.lab.samples import row


def run(optimizer: str, lr: float, seed: int, percents: list[float], seconds: float) -> Row:
    """A run of epochs of 11 steps."""
    made = row(optimizer, lr, seed, percents[-1])
    scores = [percent / 100 for percent in percents]
    result = replace(made.result, scores=scores, epochs_done=len(scores), seconds=seconds)
    return replace(made, result=result)


def test_every_optimizer_runs_to_the_goal_that_all_reach() -> None:
    cells = make_cells(
        [
            run("adam", 0.1, 0, [60, 80, 90, 90], 4.0),
            run("adam", 0.1, 1, [60, 80, 88, 92], 4.0),
            # Sooner at the goal, and worse at the end.
            run("adam", 0.2, 0, [88, 88, 88, 88], 4.0),
            run("adam", 0.2, 1, [88, 88, 88, 88], 4.0),
            run("scion", 0.1, 0, [44, 88, 89, 90], 8.0),
            run("scion", 0.1, 1, [50, 70, 80, 88], 9.0),
            # One of its seeds never gets there.
            run("scion", 0.2, 0, [90, 90, 90, 90], 8.0),
            run("scion", 0.2, 1, [80, 80, 80, 80], 8.0),
        ]
    )
    found = race(cells)
    # The worst seed at Scion's best step.
    assert found.goal == pytest.approx(88)
    adam, scion = found.racers
    assert adam.fastest.lr == 0.2
    assert (adam.steps, adam.seconds) == pytest.approx((11.0, 1.0))
    assert scion.fastest.lr == 0.1
    assert (scion.steps, scion.seconds) == pytest.approx((11 * 3.0, 2 * 3.0))
    table = lines(found)
    assert [len(line) for line in table] == [len(TITLES)] * 2
    # A name with a comma stays whole.
    clip = [run("sgd-clip", 0.1, s, [90, 92, 93, 94], 8.0) for s in range(2)]
    assert lines(race((*cells, *make_cells(clip))))[-1][0::3] == ("SGD, clipped", "step 0.1, ρ 1")
    assert table[0] == ("Adam", "11", "1.0", "step 0.2")


def test_one_lucky_seed_is_no_match_for_a_mean() -> None:
    rows = [run("adam", 0.1, s, [80, 90], 2.0) for s in range(3)]
    rows += [run("scion", 0.1, s, [80, 89 + s], 2.0) for s in range(3)]
    rows += [run("scion", 0.2, 0, [99, 99], 2.0)]
    found = race(make_cells(rows))
    assert found.goal == pytest.approx(89)
    assert [racer.fastest.lr for racer in found.racers] == [0.1, 0.1]


def test_no_race_without_rivals_or_steps() -> None:
    assert race(make_cells([row("adam"), row("adam", seed=1)])) is None
    old = row("scion")
    old = replace(old, result=replace(old.result, steps=0))
    assert race(make_cells([row("adam"), old])) is None
    assert race(()) is None
