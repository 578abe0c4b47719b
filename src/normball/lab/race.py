"""Optimizers compared: how soon each reaches a goal that all reach."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from normball.lab.cells import Cell, best, names_of, of
from normball.lab.optimizers import OPTIMIZERS
from normball.lab.statistics import first_at

TITLES = ("optimizer", "steps to the goal", "seconds", "at its fastest")


@dataclass(frozen=True)
class Racer:
    """One optimizer of a race.

    Attributes:
        fastest: its settings that reach the goal with every seed in the fewest steps.
        steps: the mean number of those steps.
        seconds: the time of that many steps, evaluation included, at the speed of the optimizer's
            fastest run, because other work on the machine can only slow runs down.
    """

    fastest: Cell
    steps: float
    seconds: float


@dataclass(frozen=True)
class Race:
    """A race of all optimizers in a table, in the order of the registry.

    The goal is the worst final score of a seed at its optimizer's best settings, so that every
    optimizer reaches it; an accuracy in percent, a loss in nats.
    """

    goal: float
    racers: tuple[Racer, ...]


def race(cells: Sequence[Cell]) -> Race | None:
    """Compare optimizers that differ in their settings and seeds only.

    The best and the fastest settings are both chosen after the runs, so an optimizer has an
    advantage if more of its settings were tried. If some settings were run with more seeds than
    others, only those with the most seeds are considered.

    Returns:
        None if there are fewer than two optimizers, if the best score of one is undefined, or if
        the rows are too old to contain the steps of an epoch.
    """
    fields = [of(cells, name) for name in names_of(cells)]
    if len(fields) < 2 or not all(row.result.steps for cell in cells for row in cell.rows):
        return None
    worst = min if cells[0].higher else max
    goal = worst(score for own in fields for score in best(_repeated(own)).scores.values())
    if not math.isfinite(goal):
        return None
    return Race(goal, tuple(_racer(own, goal) for own in fields))


def _repeated(cells: Sequence[Cell]) -> list[Cell]:
    """The cells with the most seeds: a single seed cannot be compared with a mean."""
    most = max(len(cell.rows) for cell in cells)
    return [cell for cell in cells if len(cell.rows) == most]


def _racer(cells: Sequence[Cell], goal: float) -> Racer:
    steps, fastest = min(
        ((_mean_steps(cell, goal), cell) for cell in _repeated(cells)), key=lambda pair: pair[0]
    )
    a_step = min(
        row.result.seconds / (row.result.epochs_done * row.result.steps)
        for cell in cells
        for row in cell.rows
    )
    return Racer(fastest, steps, steps * a_step)


def _mean_steps(cell: Cell, goal: float) -> float:
    sign = -1 if cell.higher else 1
    return fmean(
        row.result.steps * first_at(enumerate(map(cell.scale, row.result.scores), 1), goal, sign)
        for row in cell.rows
    )


def lines(found: Race) -> list[tuple[str, ...]]:
    """A race as a table: a line of ``TITLES`` for each optimizer."""
    return [
        (
            OPTIMIZERS[racer.fastest.optimizer].label,
            f"{racer.steps:.0f}",
            f"{racer.seconds:.1f}",
            racer.fastest.settings,
        )
        for racer in found.racers
    ]
