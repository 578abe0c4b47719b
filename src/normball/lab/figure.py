"""The two pictures of a comparison: accuracy against step size, dual norm against iteration."""

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from normball.lab.config import format_step
from normball.lab.rows import Row
from normball.lab.summary import Summary, judge

# Told apart by the colour-blind, and on paper.
COLOURS = {
    "adam": "#6b7280",
    "scion": "#d55e00",
    "clipped-scion": "#0072b2",
    "clipped-scion-auto": "#56b4e9",
    "adamw": "#cc79a7",
    "muon": "#009e73",
    "sgd-clip": "#e69f00",
}
MARKERS = {
    "adam": "s",
    "scion": "^",
    "clipped-scion": "o",
    "clipped-scion-auto": "X",
    "adamw": "D",
    "muon": "v",
    "sgd-clip": "P",
}
_ACCURACY_TICKS = (0, 50, 80, 90, 95, 98, 99, 100)
STYLE = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "legend.frameon": False,
    "svg.hashsalt": "normball",
}


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
    # Errors of 1 and of 50 points must both be seen: the axis is logarithmic in the error.
    axes.set_yscale("function", functions=(_spread, _gather))
    axes.set_yticks(_ACCURACY_TICKS)
    axes.set_yticks([], minor=True)
    axes.set_ylim(0, 100)
    axes.grid(alpha=0.25)
    axes.set(
        title="Test accuracy at a fixed step size",
        xlabel="step size (log scale)",
        ylabel="test accuracy in % (spread out towards 100)",
    )
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=3)


def _spread(percent: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(-np.log(101 - np.minimum(percent, 100.5)))


def _gather(value: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(101 - np.exp(-value))


def draw_dual_norms(axes: Axes, comparison: Comparison) -> None:
    """Draw the dual norm against the iteration for the runs that ``chosen_runs`` picks.

    Args:
        axes: where to draw.
        comparison: what to draw.
    """
    runs = chosen_runs(comparison)
    seen: set[str] = set()
    for row in runs:
        name, result = row.config.optimizer, row.result
        iterations = np.arange(len(result.trace)) * result.trace_every + 1
        axes.plot(
            iterations,
            result.trace,
            color=COLOURS[name],
            linestyle="--" if name in seen else "-",
            linewidth=1.1,
            label=f"{_label(comparison, name)}, step ${_math(row.config.lr)}$",
        )
        seen.add(name)
    for rho in sorted({row.config.rho for row in runs if row.config.rho is not None}):
        axes.axhline(rho, color="black", linewidth=1, linestyle=":", label=f"threshold ρ = {rho:g}")
    axes.set_yscale("log")
    axes.grid(alpha=0.25)
    axes.set(title="Dual norm of the gradient estimate", xlabel="iteration", ylabel="dual norm")
    if runs:
        # Below the picture: the lines leave no corner free.
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=2)


def chosen_runs(comparison: Comparison) -> tuple[Row, ...]:
    """The runs whose dual norms are drawn: both Scions at the verdict's step, each at its best.

    Of every pair of optimizer and step, the smallest seed; without a verdict, the best steps only.

    Args:
        comparison: where to choose from.
    """
    verdict = judge(comparison.summaries)
    wanted = [
        (summary.optimizer, lr)
        for summary in reversed(comparison.summaries)
        for lr in (verdict.lr, summary.best.lr)
        if lr is not None
    ]
    chosen = []
    for optimizer, lr in dict.fromkeys(wanted):
        own = [
            row
            for row in comparison.rows
            if (row.config.optimizer, row.config.lr) == (optimizer, lr) and row.result.trace
        ]
        if own:
            chosen.append(min(own, key=lambda row: row.config.seed))
    return tuple(chosen)


def _label(comparison: Comparison, name: str) -> str:
    return next(s.label for s in comparison.summaries if s.optimizer == name)


def _math(lr: float) -> str:
    base, _, exponent = format_step(lr).partition("^")
    return f"{base}^{{{exponent}}}" if exponent else base


Panel = Callable[[Axes, Comparison], None]
PANELS: tuple[Panel, ...] = (draw_accuracy, draw_dual_norms)


def render(panels: Sequence[Panel], comparison: Comparison, kind: str) -> bytes:
    """Draw panels side by side and return the picture's bytes; equal input gives equal bytes.

    Args:
        panels: functions such as ``draw_accuracy``.
        comparison: what to draw.
        kind: ``"png"`` or ``"svg"``.
    """
    with mpl.rc_context(STYLE):  # type: ignore[arg-type]
        figure = Figure(figsize=(5.6 * len(panels), 4.4), layout="constrained")
        FigureCanvasAgg(figure)
        for axes, panel in zip(
            figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True
        ):
            panel(axes, comparison)
        buffer = io.BytesIO()
        metadata = {"Date": None} if kind == "svg" else None
        figure.savefig(buffer, format=kind, dpi=160, metadata=metadata)
    return buffer.getvalue()
