import math
import random
from dataclasses import replace

import pytest

from normball.lab.cells import (
    BEST,
    Cell,
    best_lines,
    best_per_step,
    by_schedule,
    good_steps,
    make_cells,
    ordered,
    seed_deviation,
)
from normball.lab.tasks import SHAKESPEARE, find_task
from tests.lab.samples import row


def line_of(table: dict[int, tuple[float, ...]]) -> list[Cell]:
    """Cells from exponent of the step size to the percent of each seed."""
    rows = [
        row("scion", 2.0**exponent, seed, percent)
        for exponent, percents in table.items()
        for seed, percent in enumerate(percents)
    ]
    return best_per_step(make_cells(rows))


def losses(table: dict[int, float]) -> list[Cell]:
    made = [row("adam", 2.0**exponent) for exponent in table]
    rows = [
        replace(
            one,
            config=replace(one.config, task=SHAKESPEARE.name, model="gpt-tiny"),
            result=replace(one.result, score=loss),
        )
        for one, loss in zip(made, table.values(), strict=True)
    ]
    assert not find_task(rows[0].config.task).higher
    return best_per_step(make_cells(rows))


def good(line: list[Cell]) -> list[float]:
    return [math.log2(cell.lr) for cell in good_steps(line)]


def test_the_good_steps_have_no_gap_and_include_one_point() -> None:
    line = line_of({-9: (97.5,), -8: (96.0,), -7: (97.0,), -6: (98.0,), -5: (97.2,), -4: (90.0,)})
    assert good(line) == [-7, -6, -5]
    ((label, settings, mean, at, steps, factor),) = best_lines(line)
    assert len(BEST) == 6
    assert (label, settings, mean, at) == ("Scion", "6", "98", "step 2^-6")
    assert (steps, factor) == ("2^-7 to 2^-5", "4")


def test_good_steps_at_the_end_of_the_grid_may_go_on() -> None:
    assert best_lines(line_of({-7: (90.0,), -6: (98.0,), -5: (97.2,)}))[0][4:] == (
        "2^-6 to 2^-5",
        "2 or more",
    )
    alone = best_lines(line_of({-7: (90.0,), -6: (98.0,), -5: (91.0,)}))
    assert alone[0][4:] == ("2^-6", "1")


def test_of_losses_the_good_ones_are_near_in_nats() -> None:
    line = losses({-8: 1.53, -7: 1.52, -6: 1.5, -5: 1.519, -4: math.nan})
    assert good(line) == [-7, -6, -5]
    # A step without a finite loss is never good, even beside another one.
    assert good(losses({-8: math.nan, -7: math.nan})) == [-8]


def test_the_scatter_of_the_seeds_is_pooled_over_the_good_steps() -> None:
    table = {-6: (98.0, 99.0), -5: (98.0, 98.2, 98.4), -4: (10.0, 90.0)}
    # About their means the squares sum to 0.5 and 0.08, with 1 + 2 degrees of freedom.
    assert seed_deviation(line_of(table)) == pytest.approx((0.58 / 3) ** 0.5)
    assert seed_deviation(line_of({-6: (98.0,)})) is None


def test_the_order_is_that_of_settings_not_of_time() -> None:
    rows = [row(name, lr) for name in ("clipped-scion", "adam", "scion") for lr in (0.5, 0.25)]
    rows += [replace(one, config=replace(one.config, schedule="linear")) for one in rows]
    rows += [replace(one, config=replace(one.config, rho=4.0)) for one in rows if one.config.rho]
    shuffled = random.Random(0).sample(rows, len(rows))
    cells = ordered(make_cells(shuffled))
    assert [cell.rows for cell in cells] == [cell.rows for cell in ordered(make_cells(rows))]
    assert [(cell.schedule, cell.optimizer, cell.rho, cell.lr) for cell in cells[:8]] == [
        ("constant", "adam", None, 0.25),
        ("constant", "adam", None, 0.5),
        ("constant", "scion", None, 0.25),
        ("constant", "scion", None, 0.5),
        ("constant", "clipped-scion", 4.0, 0.25),
        ("constant", "clipped-scion", 4.0, 0.5),
        ("constant", "clipped-scion", 16.0, 0.25),
        ("constant", "clipped-scion", 16.0, 0.5),
    ]
    assert [len(group) for group in by_schedule(cells)] == [8, 8]


def test_diverged_runs_are_counted() -> None:
    (cell,) = make_cells([row(seed=0, percent=97), row(seed=1, percent=60, diverged=True)])
    assert cell.words[4] == "97, 60 (1 diverged)"
