"""What the figures and the arena measure alike: intervals of means, and the way to a goal."""

import math
from collections.abc import Iterable, Sequence
from statistics import stdev

from scipy.stats import t as student  # type: ignore[import-untyped]


def reach_of_mean(values: Sequence[float], level: float) -> float:
    """Half the width of Student's two-sided interval of a mean; infinite for one value."""
    count = len(values)
    if count < 2:
        return math.inf
    return float(student.ppf((1 + level) / 2, count - 1)) * stdev(values) / math.sqrt(count)


def first_at(curve: Iterable[tuple[float, float]], goal: float, sign: int = 1) -> float:
    """The place at which a curve reaches a goal, linear between its points.

    Args:
        curve: places and scores, places rising.
        goal: a score.
        sign: 1 where low scores are good, -1 where high ones are.

    Returns:
        Infinite if it never does; the first place if the curve begins at the goal.
    """
    before: tuple[float, float] | None = None
    for place, score in curve:
        if sign * score <= sign * goal:
            if before is None or not math.isfinite(before[1]):
                return float(place)
            share = (before[1] - goal) / (before[1] - score)
            return before[0] + share * (place - before[0])
        before = (place, score)
    return math.inf
