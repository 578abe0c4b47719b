"""Finished runs grouped so that the runs of a group differ only in their seed."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from normball.lab.config import format_step
from normball.lab.optimizers import OPTIMIZERS
from normball.lab.rows import Row
from normball.lab.tasks import find_task

HEADINGS = ("optimizer", "step", "ρ", "mean score", "seeds", "clipped")


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
        return (
            OPTIMIZERS[self.optimizer].label,
            format_step(self.lr),
            "" if self.rho is None else f"{self.rho:g}",
            f"{self.mean:.4g}",
            ", ".join(f"{score:.4g}" for score in self.scores.values()),
            f"{100 * sum(shares) / len(shares):.0f} %" if shares else "",
        )

    def scale(self, score: float) -> float:
        """A score in the units of ``scores``.

        Args:
            score: as in ``RunResult``.
        """
        if self.higher:
            return 100 * score
        return score if math.isfinite(score) else math.inf

    def better(self, other: "Cell") -> bool:
        """Whether this one's mean is better than another one's.

        Args:
            other: of the same task.
        """
        return self.mean > other.mean if self.higher else self.mean < other.mean


def make_cells(rows: Iterable[Row]) -> tuple[Cell, ...]:
    """Group rows; the cells come in the order of their first rows.

    Args:
        rows: finished runs.
    """
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(replace(row.config, seed=0).key(), []).append(row)
    return tuple(
        Cell(tuple(sorted(group, key=lambda row: row.config.seed))) for group in groups.values()
    )


def best(cells: Sequence[Cell]) -> Cell:
    """The cell with the best mean; among equals, the one with the smallest step.

    Args:
        cells: at least one, all of one task.
    """
    chosen = sorted(cells, key=lambda cell: cell.lr)[0]
    for cell in sorted(cells, key=lambda cell: cell.lr):
        if cell.better(chosen):
            chosen = cell
    return chosen


def of(cells: Iterable[Cell], optimizer: str) -> list[Cell]:
    """An optimizer's cells.

    Args:
        cells: any.
        optimizer: its name.
    """
    return [cell for cell in cells if cell.optimizer == optimizer]


def best_per_step(cells: Sequence[Cell]) -> list[Cell]:
    """For every step size the best cell, by ascending step: the threshold is chosen at each.

    Args:
        cells: of one optimizer.
    """
    steps = sorted({cell.lr for cell in cells})
    return [best([cell for cell in cells if cell.lr == lr]) for lr in steps]


def epochs_to(scores: Sequence[float], goal: float, *, higher: bool) -> float:
    """Epochs until a goal, with a straight line in between; infinite where it is not reached.

    Args:
        scores: the score after each epoch.
        goal: what is to be reached.
        higher: whether higher scores are better.
    """
    before = math.nan
    for epoch, score in enumerate(scores, 1):
        if score >= goal if higher else score <= goal:
            inside = (goal - before) / (score - before) if math.isfinite(before) else 1.0
            return epoch - 1 + inside
        before = score
    return math.inf
