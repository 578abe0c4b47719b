"""Finished runs grouped so that the runs of a group differ only in their seed."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from statistics import variance

from normball.lab.config import SCHEDULES, format_step
from normball.lab.errors import LabError
from normball.lab.optimizers import OPTIMIZERS
from normball.lab.rows import Row
from normball.lab.tasks import find_task

HEADINGS = ("optimizer", "step", "ρ", "mean score", "seeds", "clipped")
BEST = ("optimizer", "tried", "best mean", "at", "good steps", "factor")
# A step is good if the score is this near to the best one: points of accuracy, or nats.
NEAR_ACCURACY, NEAR_LOSS = 1.0, 0.02
# Accuracies are multiples of one image; this only keeps rounding from deciding a tie.
_ROUNDING = 1e-9


@dataclass(frozen=True)
class Cell:
    """All seeds of one set of settings.

    Attributes:
        rows: the runs, by ascending seed.
    """

    rows: tuple[Row, ...]

    @property
    def optimizer(self) -> str:
        """The optimizer's name."""
        return self.rows[0].config.optimizer

    @property
    def lr(self) -> float:
        """The step size."""
        return self.rows[0].config.lr

    @property
    def rho(self) -> float | None:
        """The threshold; None for an optimizer without one."""
        return self.rows[0].config.rho

    @property
    def schedule(self) -> str:
        """One of ``SCHEDULES``."""
        return self.rows[0].config.schedule

    @property
    def higher(self) -> bool:
        """Whether higher scores are better."""
        return find_task(self.rows[0].config.task).higher

    @property
    def scores(self) -> dict[int, float]:
        """Seed to score: an accuracy in percent, a loss in nats; infinite where it is undefined."""
        return {row.config.seed: self.scale(row.result.score) for row in self.rows}

    @property
    def mean(self) -> float:
        """Mean score over the seeds."""
        return math.fsum(self.scores.values()) / len(self.rows)

    @property
    def settings(self) -> str:
        """Step size and threshold, for reading."""
        rho = "" if self.rho is None else f", ρ {self.rho:g}"
        return f"step {format_step(self.lr)}{rho}"

    @property
    def name(self) -> str:
        """The optimizer and its ``settings``, for reading."""
        return f"{OPTIMIZERS[self.optimizer].label}, {self.settings}"

    @property
    def words(self) -> tuple[str, ...]:
        """What `HEADINGS` name, for reading."""
        shares = [r.result.clipped_share for r in self.rows if r.result.clipped_share is not None]
        diverged = sum(row.result.diverged for row in self.rows)
        return (
            OPTIMIZERS[self.optimizer].label,
            format_step(self.lr),
            "" if self.rho is None else f"{self.rho:g}",
            f"{self.mean:.4g}",
            ", ".join(f"{score:.4g}" for score in self.scores.values())
            + (f" ({diverged} diverged)" if diverged else ""),
            f"{100 * sum(shares) / len(shares):.0f} %" if shares else "",
        )

    def scale(self, score: float) -> float:
        """A score in the units of ``scores``."""
        if self.higher:
            return 100 * score
        return score if math.isfinite(score) else math.inf

    def better(self, other: "Cell") -> bool:
        """Whether this one's mean is better than another one's."""
        return self.mean > other.mean if self.higher else self.mean < other.mean


def make_cells(rows: Iterable[Row]) -> tuple[Cell, ...]:
    """Group rows; the cells come in the order of their first rows."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(replace(row.config, seed=0).key(), []).append(row)
    return tuple(
        Cell(tuple(sorted(group, key=lambda row: row.config.seed))) for group in groups.values()
    )


def check_one_data(cells: Iterable[Cell]) -> None:
    """Refuse a comparison of runs on different data with a LabError."""
    found = {row.result.data for cell in cells for row in cell.rows} - {""}
    if len(found) > 1:
        raise LabError(
            f"the runs to compare were made on different data: {' | '.join(sorted(found))}. Use "
            "another folder, or take the rows of one of them out."
        )


def ordered(cells: Iterable[Cell]) -> tuple[Cell, ...]:
    """Cells in an order that does not depend on when their runs were finished."""
    names = list(OPTIMIZERS)
    return tuple(
        sorted(
            cells,
            key=lambda cell: (
                SCHEDULES.index(cell.schedule),
                names.index(cell.optimizer),
                cell.rho or 0,
                cell.lr,
                cell.rows[0].config.key(),
            ),
        )
    )


def by_schedule(cells: Iterable[Cell]) -> list[list[Cell]]:
    """The cells of every schedule that has some, in the order of ``SCHEDULES``."""
    cells = list(cells)
    groups = ([cell for cell in cells if cell.schedule == name] for name in SCHEDULES)
    return [group for group in groups if group]


def best(cells: Sequence[Cell]) -> Cell:
    """The cell with the best mean; among equals, the one with the smallest step."""
    chosen = sorted(cells, key=lambda cell: cell.lr)[0]
    for cell in sorted(cells, key=lambda cell: cell.lr):
        if cell.better(chosen):
            chosen = cell
    return chosen


def names_of(cells: Sequence[Cell]) -> list[str]:
    """The optimizers that have cells, in the order of the registry."""
    return [name for name in OPTIMIZERS if of(cells, name)]


def of(cells: Iterable[Cell], optimizer: str) -> list[Cell]:
    """An optimizer's cells."""
    return [cell for cell in cells if cell.optimizer == optimizer]


def best_per_step(cells: Sequence[Cell]) -> list[Cell]:
    """For every step size the best cell, by ascending step: the threshold is chosen at each."""
    steps = sorted({cell.lr for cell in cells})
    return [best([cell for cell in cells if cell.lr == lr]) for lr in steps]


def lines_of(cells: Sequence[Cell]) -> dict[str, list[Cell]]:
    """Every optimizer's ``best_per_step``, by its name."""
    return {name: best_per_step(of(cells, name)) for name in names_of(cells)}


def good_steps(line: Sequence[Cell]) -> list[Cell]:
    """The steps around the best one that are about as good, without a gap.

    About as good is a mean within ``NEAR_ACCURACY`` or ``NEAR_LOSS`` of the best one.
    """
    chosen = best(line)
    near = (NEAR_ACCURACY if chosen.higher else NEAR_LOSS) + _ROUNDING
    first = last = next(place for place, cell in enumerate(line) if cell is chosen)
    while first > 0 and abs(line[first - 1].mean - chosen.mean) <= near:
        first -= 1
    while last + 1 < len(line) and abs(line[last + 1].mean - chosen.mean) <= near:
        last += 1
    return list(line[first : last + 1])


def best_lines(cells: Sequence[Cell]) -> list[tuple[str, ...]]:
    """What `BEST` names, for every optimizer, for reading.

    The factor is that of the largest good step to the smallest one. It is "or more" where the good
    steps reach an end of those that were tried.
    """
    table: list[tuple[str, ...]] = []
    for name, line in lines_of(cells).items():
        chosen, good = best(line), good_steps(line)
        open_end = " or more" if good[0] is line[0] or good[-1] is line[-1] else ""
        ends = dict.fromkeys(format_step(cell.lr) for cell in (good[0], good[-1]))
        table.append(
            (
                OPTIMIZERS[name].label,
                str(len(of(cells, name))),
                f"{chosen.mean:.4g}",
                chosen.settings,
                " to ".join(ends),
                f"{good[-1].lr / good[0].lr:.3g}{open_end}",
            )
        )
    return table


def seed_deviation(cells: Sequence[Cell]) -> float | None:
    """The standard deviation of the seeds at one setting, pooled over the good steps of all.

    In the units of the scores; None where no good step has two seeds.
    """
    good = [cell for line in lines_of(cells).values() for cell in good_steps(line)]
    several = [
        list(cell.scores.values())
        for cell in good
        if len(cell.rows) > 1 and math.isfinite(cell.mean)
    ]
    if not several:
        return None
    squares = math.fsum(variance(scores) * (len(scores) - 1) for scores in several)
    return math.sqrt(squares / sum(len(scores) - 1 for scores in several))
