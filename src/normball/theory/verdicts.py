"""Measured curves compared with bounds, and the verdict of each comparison."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from normball.theory.lanes import Rule, Trace
from normball.theory.problems import Problem

ROUNDING = 1e-9


@dataclass(frozen=True)
class Row:
    """The verdict on one statement in one norm.

    Attributes:
        statement: with its number in the paper, where it has one.
        norm: in words.
        holds: at every step, or at every n, in every run.
        tightest: the largest ratio of a measured value to its bound; at most 1 if the statement
            holds. For a descent statement, the ratio of the promised to the measured decrease.
        slope: of the measured curve over the last two decades of n, log-log: mean, least and
            largest over the seeds; None where it is not fitted.
    """

    statement: str
    norm: str
    holds: bool
    tightest: float
    slope: tuple[float, float, float] | None = None


@dataclass(frozen=True)
class Curve:
    """A measured curve and its bound at n = 1, 2, ..., both averaged over the seeds."""

    label: str
    norm: str
    measured: tuple[float, ...]
    bound: tuple[float, ...]


Outcome = tuple[list[Row], list[Curve]]
"""The verdicts of one kind of statements in one norm, and the curves to draw."""


def compare(
    label: str, norm: str, measured: Tensor, bound: Callable[[int, int], float], fitted: bool = True
) -> tuple[Row, Curve]:
    """Compare `measured[k, lane]`, over the first `k + 1` steps, with `bound(k + 1, lane)`."""
    n, lanes = measured.shape
    limits = torch.tensor(
        [[bound(k + 1, i) for i in range(lanes)] for k in range(n)], dtype=measured.dtype
    )
    ratio = float((measured / limits).amax())
    slope = _slopes(measured) if fitted else None
    curve = Curve(label, norm, tuple(measured.mean(1).tolist()), tuple(limits.mean(1).tolist()))
    return Row(label, norm, ratio <= 1 + ROUNDING, ratio, slope), curve


def _slopes(measured: Tensor) -> tuple[float, float, float] | None:
    """Fit every lane over the last two decades; None where a curve has reached rounding."""
    n = measured.shape[0]
    places = torch.tensor([int(n * 10 ** (-2 + 2 * i / 8)) for i in range(9)]).clamp(min=1) - 1
    values = measured[places]
    if float(values.min()) < 1e-9 * float(measured.max()):
        return None
    return fit(places + 1, values)


def fit(places: Tensor, values: Tensor) -> tuple[float, float, float]:
    """Return mean, least and largest log-log slope of `values`, shape `(places, lanes)`."""
    x = places.to(values.dtype).log()
    x = x - x.mean()
    slopes = (x[:, None] * values.log()).sum(0) / x.square().sum()
    return float(slopes.mean()), float(slopes.min()), float(slopes.max())


def descent(label: str, norm: str, trace: Trace, lanes: slice, promised: Tensor) -> Row:
    """Compare the decrease of every step with the decrease promised for it."""
    fun = trace.fun[:, lanes]
    # The accuracy to which the decrease of a sum of squares is known.
    rounding = 64 * torch.finfo(fun.dtype).eps * fun.abs().amax(0)
    gained = fun[:-1] - fun[1:] + rounding
    ratio = float((promised / gained).amax())
    holds = bool((gained > 0).all()) and ratio <= 1 + ROUNDING
    return Row(label, norm, holds, ratio)


def lowest(measure: Tensor) -> Tensor:
    """Return the running minimum over the first n points, without the last one."""
    return measure[:-1].cummin(0).values


def mean(measure: Tensor) -> Tensor:
    """Return the running mean over the first n points, without the last one."""
    steps_taken = torch.arange(1, measure.shape[0], dtype=measure.dtype)
    return measure[:-1].cumsum(0) / steps_taken[:, None]


def side_by_side(rules: Sequence[Rule], width: int) -> tuple[Rule, list[slice]]:
    """Give every rule its own `width` lanes."""
    slices = [slice(i * width, (i + 1) * width) for i in range(len(rules))]

    def rule(slope: Tensor, size: Tensor) -> Tensor:
        return torch.cat([r(slope[s], size[s]) for r, s in zip(rules, slices, strict=True)])

    return rule, slices


def repeat(starts: list[Tensor], times: int) -> list[Tensor]:
    """Return the lanes of `starts`, `times` times over."""
    return [x.repeat(times, *[1] * (x.ndim - 1)) for x in starts]


def deltas(problem: Problem, trace: Trace) -> list[float]:
    """Return `f(x_1) - inf f` of every lane; inf f from duality where the problem has a ball."""
    if problem.infimum is not None:
        low = problem.infimum
    else:  # convex: f - gap is below the minimum at every point
        low = float((trace.fun - trace.measure).max())
    return [float(value) - low for value in trace.fun[0]]
