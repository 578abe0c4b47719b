"""Thresholds narrowed by successive halving, before runs of full length are spent on them.

Every optimizer keeps all its step sizes. At each of them a rung, which is a number of epochs,
halves the thresholds: the better ones go on to the next rung, and at the end to full length
(Jamieson and Talwalkar, AISTATS 2016). What is wanted next follows from the finished rows alone.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace

from normball.lab.cells import Cell, best, make_cells
from normball.lab.config import RunConfig
from normball.lab.rows import Row


def next_stage(
    configs: Sequence[RunConfig], rungs: Sequence[int], rows: Iterable[Row]
) -> tuple[RunConfig, ...]:
    """The runs of the first rung that lacks one, or else those that go on to full length.

    Args:
        rungs: numbers of epochs, ascending.
    """
    there = {row.config.key(): row for row in rows}
    left = tuple(configs)
    for epochs in rungs:
        stage = tuple(replace(config, epochs=epochs) for config in left)
        if any(config.key() not in there for config in stage):
            return stage
        kept = _better_half(make_cells(there[config.key()] for config in stage))
        left = tuple(config for config in left if (config.optimizer, config.lr, config.rho) in kept)
    return left


def _better_half(cells: Sequence[Cell]) -> set[tuple[str, float, float | None]]:
    """Of every optimizer and step size half the settings, rounded down, but at least one."""
    kept = set()
    for place in {(cell.optimizer, cell.lr) for cell in cells}:
        rivals = [cell for cell in cells if (cell.optimizer, cell.lr) == place]
        for _ in range(max(1, len(rivals) // 2)):
            winner = best(rivals)
            rivals.remove(winner)
            kept.add((*place, winner.rho))
    return kept
