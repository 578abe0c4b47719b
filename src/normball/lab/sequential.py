"""Intervals for a mean that stay valid however often one looks while values are added.

Looks follow a plan, declared here: at ``LOOKS[0]`` values, and after every two more until
``LOOKS[-1]``. The chance of leaving the true mean out at any look is spent in proportion to the
number of values (Lan and DeMets, Biometrika 70, 1983; the power family of Kim and DeMets,
Biometrika 74, 1987, with exponent 1). The critical values are those of repeated t statistics, exact
for normal values of unknown variance, and the intervals are repeated confidence intervals (Jennison
and Turnbull, Biometrika 78, 1991).
"""

import math
from collections.abc import Sequence
from functools import lru_cache
from statistics import fmean, stdev

import numpy as np

# The first look is not at two values: accuracies are counts, and two equal ones, or three, would
# have no scatter by chance.
LOOKS = tuple(range(6, 41, 2))
_CELLS = 600
_NODES = 48


@lru_cache
def critical_values(level: float) -> tuple[float, ...]:
    """What the absolute t statistic must exceed at each of ``LOOKS``.

    Let ``S`` be the sum of ``n`` values of mean 0 and ``Q`` the sum of their squares. Then
    ``S / sqrt(n Q) = sin(a)`` and ``t = sqrt(n - 1) tan(a)``. Two more values multiply ``S /
    sqrt(Q)`` by ``sqrt(r)`` and add ``sqrt(2 (1 - r)) cos(b)``, with ``r`` from the Beta
    distribution of ``n / 2`` and 1 and ``b`` from the circle, both independent of all before. So
    the distribution of ``|a|`` among sequences that are still inside follows look by look.

    Args:
        level: the chance that all intervals contain the mean, in (0, 1).
    """
    edges = np.linspace(0, math.pi / 2, _CELLS + 1)
    sines = np.sin((edges[1:] + edges[:-1]) / 2)[:, None, None]
    middles = (np.arange(_NODES) + 0.5) / _NODES
    mass = np.full(_CELLS, 1 / _CELLS)  # of two values
    spent, found = 0.0, []
    for n in range(4, LOOKS[-1] + 1, 2):
        r = middles[:, None] ** (2 / (n - 2))
        moved = math.sqrt(n - 2) * sines * np.sqrt(r) + np.sqrt(2 - 2 * r) * np.cos(
            math.pi * middles
        )
        angles = np.arcsin(np.minimum(np.abs(moved) / math.sqrt(n), 1))
        cells = np.minimum(angles * (_CELLS / edges[-1]), _CELLS - 1).astype(int)
        weights = np.repeat(mass / _NODES**2, _NODES**2)
        mass = np.bincount(cells.ravel(), weights, minlength=_CELLS)
        if n in LOOKS:
            chance = (1 - level) * n / LOOKS[-1]
            above = np.append(np.cumsum(mass[::-1])[::-1], 0.0)
            angle = float(np.interp(chance - spent, above[::-1], edges[::-1]))
            mass *= np.clip((angle - edges[:-1]) / edges[1], 0, 1)
            found.append(math.sqrt(n - 1) * math.tan(angle))
            spent = chance
    return tuple(found)


def repeated_interval(values: Sequence[float], level: float) -> tuple[float, float]:
    """The interval for the mean at one of the planned looks.

    With chance ``level`` the intervals of all looks contain the mean, if the values are normal.

    Args:
        values: as many as one of ``LOOKS`` says.
        level: in (0, 1).

    Returns:
        Both ends; infinite where a value is not a finite number, as no mean can be estimated then.

    Raises:
        ValueError: if no look is planned at so many values.
    """
    if len(values) not in LOOKS:
        raise ValueError(f"no look is planned at {len(values)} values, only at {LOOKS}.")
    if not all(map(math.isfinite, values)):
        return -math.inf, math.inf
    critical = critical_values(level)[LOOKS.index(len(values))]
    reach = critical * stdev(values) / math.sqrt(len(values))
    return fmean(values) - reach, fmean(values) + reach
