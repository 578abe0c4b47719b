"""Which runs are still missing: all settings on the choosing seed, then the best on the others."""

from collections.abc import Iterable, Sequence

from normball.lab.arena.methods import METHODS
from normball.lab.arena.protocol import Protocol
from normball.lab.arena.record import Row, Run


def tried(protocol: Protocol, rows: Iterable[Row], task: str, method: str) -> dict[float, float]:
    """Scores of a method on the choosing seed and half by setting, the settings rising."""
    wanted = (task, method, protocol.choose)
    found = {
        row.run.value: row.result.choose
        for row in rows
        if (row.run.task, row.run.method, row.run.seed) == wanted
    }
    return dict(sorted(found.items()))


def chosen(protocol: Protocol, rows: Iterable[Row], task: str, method: str) -> float | None:
    """The setting that is judged, the smallest of equals; None while it is not decided."""
    if not METHODS[method].tuned:
        return protocol.grid(method)[0]
    scores = tried(protocol, rows, task, method)
    return None if _missing(protocol, scores, method) else min(scores, key=scores.__getitem__)


def pending(protocol: Protocol, rows: Sequence[Row], task: str, method: str) -> list[Run]:
    """The runs of a method on a task that can be made now."""
    value = chosen(protocol, rows, task, method)
    if value is None:
        missing = _missing(protocol, tried(protocol, rows, task, method), method)
        return [Run(task, method, each, protocol.choose) for each in missing]
    done = {row.run for row in rows}
    runs = [Run(task, method, value, seed) for seed in protocol.judge]
    return [run for run in runs if run not in done]


def _missing(protocol: Protocol, scores: dict[float, float], method: str) -> list[float]:
    """The settings of the grid that were not run; else, if an edge is best, the next one out."""
    grid, values = protocol.grid(method), list(scores)
    if missing := [value for value in grid if value not in scores]:
        return missing
    best = min(scores, key=scores.__getitem__)
    if len(values) - len(grid) >= protocol.extensions or best not in (values[0], values[-1]):
        return []
    # Places are counted from the centre, so that a value does not depend on how it was reached.
    low = -(protocol.settings // 2) - sum(value < grid[0] for value in values)
    return [METHODS[method].value(low - 1 if best == values[0] else low + len(values))]
