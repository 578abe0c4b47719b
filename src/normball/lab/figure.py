"""The pictures of a comparison: accuracy by step size, accuracy by epoch, dual norms."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from normball._style import INK, power
from normball.lab import pictures
from normball.lab.pictures import COLOURS, MARKERS
from normball.lab.rows import Row
from normball.lab.summary import Summary, judge

_ACCURACY_TICKS = (0, 50, 80, 90, 95, 98, 99, 100)


@dataclass(frozen=True)
class Comparison:
    """What the figure and the report are drawn from.

    Attributes:
        rows: the finished runs.
        summaries: the same, from ``summarise``.
    """

    rows: tuple[Row, ...]
    summaries: tuple[Summary, ...]


def draw_accuracy(axes: Axes, comparison: Comparison) -> None:
    """Draw test accuracy against step size: seeds as points, their mean as a line.

    Args:
        axes: where to draw.
        comparison: what to draw.
    """
    for summary in comparison.summaries:
        colour = COLOURS[summary.optimizer]
        lrs = [step.lr for step in summary.steps]
        axes.plot(lrs, [step.mean for step in summary.steps], color=colour, label=summary.label)
        points = [(step.lr, value) for step in summary.steps for value in step.accuracies]
        axes.plot(
            *zip(*points, strict=True),
            linestyle="none",
            marker=MARKERS[summary.optimizer],
            markersize=4.5,
            markeredgewidth=0,
            alpha=0.65,
            color=colour,
        )
    axes.set_xscale("log", base=2)
    _accuracy_axis(axes)
    axes.set(title="Test accuracy at a fixed step size", xlabel="step size (log scale)")
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=3)


def _accuracy_axis(axes: Axes) -> None:
    # Errors of 1 and of 50 points must both be visible: the axis is logarithmic in the error.
    axes.set_yscale("function", functions=(_spread, _gather))
    axes.set_yticks(_ACCURACY_TICKS)
    axes.set_yticks([], minor=True)
    axes.set_ylim(0, 100)
    axes.set_ylabel("test accuracy in %, log scale of the error")
    axes.grid(alpha=0.25)


def _spread(percent: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(-np.log(101 - np.minimum(percent, 100.5)))


def _gather(value: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(101 - np.exp(-value))


def draw_learning(axes: Axes, comparison: Comparison) -> None:
    """Draw test accuracy after every epoch, each optimizer at its best step: mean and seeds' range.

    Args:
        axes: where to draw.
        comparison: what to draw.
    """
    for summary in comparison.summaries:
        runs = _runs(comparison, summary.optimizer, summary.best.lr)
        length = min(len(row.result.scores) for row in runs)
        if not length:  # older rows have the last accuracy alone
            continue
        scores = 100 * np.array([row.result.scores[:length] for row in runs])
        epochs, colour = np.arange(1, length + 1), COLOURS[summary.optimizer]
        label = f"{summary.label}, step {power(summary.best.lr, 2)}"
        marker = "o" if length == 1 else ""
        axes.plot(epochs, scores.mean(axis=0), color=colour, label=label, marker=marker)
        axes.fill_between(epochs, scores.min(axis=0), scores.max(axis=0), color=colour, alpha=0.15)
    _accuracy_axis(axes)
    axes.set(title="Learning curves, each at its best step", xlabel="epoch")
    if axes.lines:
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=2)


def draw_dual_norms(axes: Axes, comparison: Comparison) -> None:
    """Draw the dual norm against the iteration for the runs that ``chosen_runs`` picks.

    Every value is drawn faintly, and the mean of each twentieth of the run as a line.

    Args:
        axes: where to draw.
        comparison: what to draw.
    """
    runs = chosen_runs(comparison)
    for row in runs:
        result, colour = row.result, COLOURS[row.config.optimizer]
        values = np.asarray(result.trace)
        iterations = np.arange(len(values)) * result.trace_every + 1
        axes.plot(iterations, values, color=colour, linewidth=0.8, alpha=0.3)
        parts = min(20, len(values))
        axes.plot(
            [part.mean() for part in np.array_split(iterations, parts)],
            [part.mean() for part in np.array_split(values, parts)],
            color=colour,
            linewidth=2,
            label=f"{_label(comparison, row.config.optimizer)}, step {power(row.config.lr, 2)}",
        )
    for rho in sorted({row.config.rho for row in runs if row.config.rho is not None}):
        axes.axhline(rho, color=INK, linewidth=1, linestyle=":", label=f"threshold ρ = {rho:g}")
    axes.set_yscale("log")
    axes.grid(alpha=0.25)
    axes.set(title="Dual norm of the gradient estimate", xlabel="iteration", ylabel="dual norm")
    if runs:
        # Below the picture: the lines leave no corner free.
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=2)


def chosen_runs(comparison: Comparison) -> tuple[Row, ...]:
    """The runs whose dual norms are drawn: each Scion at the verdict's step, or else at its best.

    Of every pair of optimizer and step, the smallest seed.

    Args:
        comparison: where to choose from.
    """
    common, chosen = judge(comparison.summaries).lr, []
    for summary in reversed(comparison.summaries):
        lr = summary.best.lr if common is None else common
        own = [row for row in _runs(comparison, summary.optimizer, lr) if row.result.trace]
        if own:
            chosen.append(min(own, key=lambda row: row.config.seed))
    return tuple(chosen)


def _runs(comparison: Comparison, optimizer: str, lr: float) -> list[Row]:
    wanted = (optimizer, lr)
    return [row for row in comparison.rows if (row.config.optimizer, row.config.lr) == wanted]


def _label(comparison: Comparison, name: str) -> str:
    return next(s.label for s in comparison.summaries if s.optimizer == name)


Panel = Callable[[Axes, Comparison], None]
PANELS: Mapping[str, Panel] = MappingProxyType(
    {"accuracy": draw_accuracy, "learning": draw_learning, "dual norms": draw_dual_norms}
)


def render(panels: Iterable[Panel], comparison: Comparison, kind: str) -> bytes:
    """Draw panels side by side and return the picture's bytes; equal input gives equal bytes.

    Args:
        panels: functions such as ``draw_accuracy``.
        comparison: what to draw.
        kind: ``"png"`` or ``"svg"``.
    """
    drawn = [pictures.showing(comparison, panel) for panel in panels]
    return pictures.render(drawn, kind, size=(4.7, 4.4))
