"""Pictures of a sweep: the score by step and threshold, over time, and what the weights do."""

import math
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes

from normball._style import INK
from normball.lab.cells import Cell, best, best_per_step, of
from normball.lab.config import format_step
from normball.lab.errors import unknown
from normball.lab.optimizers import OPTIMIZERS
from normball.lab.pictures import COLOURS, MARKERS, render, showing

_CLIPPED = "clipped-scion"


def _names(cells: Sequence[Cell]) -> list[str]:
    return [name for name in OPTIMIZERS if of(cells, name)]


def _score_label(cells: Sequence[Cell]) -> str:
    return "test accuracy in %" if cells[0].higher else "test loss in nats"


def _fit(axes: Axes, cells: Sequence[Cell]) -> None:
    """Limit the axis: the losses of diverging runs would hide all others."""
    if not cells[0].higher:
        finite = [cell.mean for cell in cells if math.isfinite(cell.mean)]
        if finite:
            low = min(finite)
            axes.set_ylim(low - 0.03 * low, min(max(finite), 1.6 * low) * 1.02)


def by_step(axes: Axes, cells: Sequence[Cell]) -> None:
    """Score against step size, the threshold chosen at each: seeds as points, means as lines.

    Args:
        axes: where to draw.
        cells: what to draw.
    """
    for name in _names(cells):
        line = best_per_step(of(cells, name))
        axes.plot(
            [cell.lr for cell in line],
            [cell.mean for cell in line],
            color=COLOURS[name],
            label=OPTIMIZERS[name].label,
        )
        points = [(cell.lr, score) for cell in line for score in cell.scores.values()]
        axes.plot(
            *zip(*points, strict=True),
            linestyle="none",
            marker=MARKERS[name],
            markersize=4,
            markeredgewidth=0,
            alpha=0.6,
            color=COLOURS[name],
        )
    axes.set_xscale("log", base=2)
    axes.set(title="by step size", xlabel="step size", ylabel=_score_label(cells))
    _fit(axes, cells)
    axes.grid(alpha=0.25)
    axes.legend()


def over_time(axes: Axes, cells: Sequence[Cell]) -> None:
    """Score after every epoch, each optimizer at its best settings: the mean, and the seeds' range.

    Args:
        axes: where to draw.
        cells: what to draw.
    """
    chosen = [best(of(cells, name)) for name in _names(cells)]
    for cell in chosen:
        length = min(len(row.result.scores) for row in cell.rows)
        scores = np.array(
            [[cell.scale(score) for score in row.result.scores[:length]] for row in cell.rows]
        )
        epochs = np.arange(1, length + 1)
        colour = COLOURS[cell.optimizer]
        axes.plot(epochs, scores.mean(axis=0), color=colour, label=cell.name)
        axes.fill_between(epochs, scores.min(axis=0), scores.max(axis=0), color=colour, alpha=0.15)
    axes.set(title="each at its best settings", xlabel="epoch", ylabel=_score_label(cells))
    axes.grid(alpha=0.25)
    axes.legend(fontsize=9)


def by_rho(axes: Axes, cells: Sequence[Cell]) -> None:
    """Score of Clipped Scion against the threshold, a line for every step size.

    Args:
        axes: where to draw.
        cells: what to draw.
    """
    ours = of(cells, _CLIPPED)
    steps = sorted({cell.lr for cell in ours})
    shades = mpl.colormaps["viridis"](np.linspace(0, 0.9, len(steps)))
    for lr, shade in zip(steps, shades, strict=True):
        line = sorted((c for c in ours if c.lr == lr), key=lambda cell: cell.rho or 0)
        rhos = [cell.rho or 0.0 for cell in line]
        axes.plot(rhos, [c.mean for c in line], marker="o", color=shade, label=format_step(lr))
    for cell in best_per_step(of(cells, "scion"))[:1]:
        plain = best(of(cells, "scion"))
        axes.axhline(plain.mean, color=COLOURS[cell.optimizer], linestyle="--", label="Scion, best")
    axes.set_xscale("log", base=2)
    axes.set(title="by threshold", xlabel="threshold ρ", ylabel=_score_label(cells))
    _fit(axes, cells)
    axes.grid(alpha=0.25)
    axes.legend(title="step", fontsize=9)


def heat(axes: Axes, cells: Sequence[Cell]) -> None:
    """Mean score of Clipped Scion over steps and thresholds; without clipping in the last column.

    Args:
        axes: where to draw.
        cells: what to draw.
    """
    ours, plain = of(cells, _CLIPPED), of(cells, "scion")
    steps = sorted({cell.lr for cell in ours + plain})
    rhos: list[float] = sorted({cell.rho for cell in ours if cell.rho is not None})
    columns = rhos + ([math.inf] if plain else [])
    table = np.full((len(steps), len(columns)), np.nan)
    for cell in ours + plain:
        column = columns.index(math.inf if cell.rho is None else cell.rho)
        table[steps.index(cell.lr), column] = cell.mean if math.isfinite(cell.mean) else np.nan
    higher = cells[0].higher
    axes.imshow(table, aspect="auto", origin="lower", cmap="viridis" if higher else "viridis_r")
    middle = np.nanmean(table)
    for (row, column), value in np.ndenumerate(table):
        if not np.isnan(value):
            dark = (value < middle) == higher
            text = f"{value:.1f}" if higher else f"{value:.2f}"
            colour = "white" if dark else "black"
            axes.text(column, row, text, ha="center", va="center", fontsize=9, color=colour)
    names = ["none" if math.isinf(rho) else f"{rho:g}" for rho in columns]
    axes.set_xticks(range(len(columns)), names)
    axes.set_yticks(range(len(steps)), [format_step(lr) for lr in steps])
    axes.set(title=_score_label(cells), xlabel="threshold ρ", ylabel="step size")


def gap(axes: Axes, cells: Sequence[Cell]) -> None:
    """The gap <d, w> of constrained runs, and the weights' part of it, each optimizer at its best.

    With ``w = x - u``, where ``u`` is the point of the ball furthest against ``d``, the gap is the
    dual norm of ``d`` less ``-<d, x>``. Means of every epoch; ``-<d, x>`` is that at its end.

    Args:
        axes: where to draw.
        cells: what to draw.
    """
    for name in _names(cells):
        cell = best(of(cells, name))
        for number, row in enumerate(cell.rows):
            result, colour = row.result, COLOURS[name]
            means = [part.mean() for part in np.array_split(result.trace, result.epochs_done)]
            text = cell.name if number == 0 else None
            axes.plot(range(1, len(means) + 1), means, color=colour, alpha=0.7, label=text)
            weights = range(1, len(result.inner) + 1)
            axes.plot(weights, result.inner, color=colour, alpha=0.7, linestyle=":")
    axes.plot([], [], color=INK, linestyle=":", label="-<d, x>, the weights' part")
    # Linear near 0, because the weights' part may change its sign.
    axes.set_yscale("symlog", linthresh=0.1)
    axes.legend(fontsize=9)
    axes.grid(alpha=0.25)
    axes.set(title="the gap <d, w>", xlabel="epoch", ylabel="<d, w>")


CHARTS: Mapping[str, Callable[[Axes, Sequence[Cell]], None]] = MappingProxyType(
    {
        "by-step": by_step,
        "over-time": over_time,
        "by-rho": by_rho,
        "heat": heat,
        "gap": gap,
    }
)


def draw(names: Sequence[str], cells: Sequence[Cell], kind: str, title: str = "") -> bytes:
    """Charts side by side; equal input gives equal bytes.

    Args:
        names: keys of ``CHARTS``.
        cells: what to draw, at least one, all of one task.
        kind: ``"png"`` or ``"svg"``.
        title: above all of them.

    Raises:
        LabError: if a chart is unknown.
    """
    for name in names:
        if name not in CHARTS:
            raise unknown("chart", name, CHARTS)
    panels = [showing(cells, CHARTS[name]) for name in names]
    return render(panels, kind, size=(5.4, 4.3), title=title)
