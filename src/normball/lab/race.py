"""Optimizers side by side: the best score of each, and how soon it reaches a goal all reach."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from normball.lab.cells import Cell, best, epochs_to, of
from normball.lab.optimizers import OPTIMIZERS
from normball.lab.rows import Row

TITLES = (
    "optimizer",
    "settings tried",
    "best mean score",
    "at",
    "steps to the goal",
    "seconds",
    "at its fastest",
)


@dataclass(frozen=True)
class Racer:
    """One optimizer of a race.

    Attributes:
        settings: how many settings of it were tried.
        best: the one with the best mean score at the end.
        fastest: the one that reaches the goal with every seed in the fewest steps.
        steps: the mean number of those steps.
        seconds: the mean time they took, with the evaluation after every epoch.
    """

    settings: int
    best: Cell
    fastest: Cell
    steps: float
    seconds: float


@dataclass(frozen=True)
class Race:
    """A race of all optimizers in a table.

    Attributes:
        goal: the worst final score of a seed at its optimizer's best settings, so that every
            optimizer reaches it; an accuracy in percent, a loss in nats.
        racers: one for each optimizer, in the order of the registry.
    """

    goal: float
    racers: tuple[Racer, ...]


def race(cells: Sequence[Cell]) -> Race | None:
    """Hold the optimizers side by side.

    Settings are chosen after the fact, the best and the fastest alike, so each optimizer is
    favoured in the measure of how many settings of it were tried.

    Args:
        cells: runs that differ in optimizer, settings of optimizers, and seed.

    Returns:
        None where there are fewer than two optimizers, an undefined score is the best of one, or
        the rows are from before they told the steps of an epoch.
    """
    fields = [own for name in OPTIMIZERS if (own := of(cells, name))]
    if len(fields) < 2 or not all(row.result.steps for cell in cells for row in cell.rows):
        return None
    worst = min if cells[0].higher else max
    goal = worst(score for own in fields for score in best(own).scores.values())
    if not math.isfinite(goal):
        return None
    return Race(goal, tuple(_racer(own, goal) for own in fields))


def _racer(cells: Sequence[Cell], goal: float) -> Racer:
    steps = {index: _mean_steps(cell, goal) for index, cell in enumerate(cells)}
    fastest = min(steps, key=lambda index: steps[index])
    cell = cells[fastest]
    seconds = fmean(
        _epochs(cell, row, goal) * row.result.seconds / row.result.epochs_done for row in cell.rows
    )
    return Racer(len(cells), best(cells), cell, steps[fastest], seconds)


def _mean_steps(cell: Cell, goal: float) -> float:
    return fmean(_epochs(cell, row, goal) * row.result.steps for row in cell.rows)


def _epochs(cell: Cell, row: Row, goal: float) -> float:
    scores = [cell.scale(score) for score in row.result.scores]
    return epochs_to(scores, goal, higher=cell.higher)


def lines(found: Race) -> list[tuple[str, ...]]:
    """A race as a table: ``TITLES`` and a line for each optimizer.

    Args:
        found: from ``race``.
    """
    table: list[tuple[str, ...]] = []
    for racer in found.racers:
        table.append(
            (
                OPTIMIZERS[racer.best.optimizer].label,
                str(racer.settings),
                f"{racer.best.mean:.4g}",
                _settings(racer.best),
                f"{racer.steps:.0f}",
                f"{racer.seconds:.1f}",
                _settings(racer.fastest),
            )
        )
    return table


def _settings(cell: Cell) -> str:
    return cell.name.split(", ", 1)[1]
