"""Pictures of a sweep: the score by step and threshold, over time, and what the weights do."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from normball._style import INK
from normball.lab.cells import Cell, best, by_schedule, lines_of, names_of, of
from normball.lab.config import format_step
from normball.lab.errors import unknown
from normball.lab.optimizers import OPTIMIZERS
from normball.lab.pages import typeset
from normball.lab.pictures import COLOURS, MARKERS, legend_below, render, showing

_CLIPPED = "clipped-scion"
_STEPS: Mapping[str, str] = {
    "constant": "fixed step",
    "linear": "linear decay",
    "cosine": "cosine decay",
    "trapezoidal": "late linear decay",
}
_ACCURACIES = (0, 50, 80, 90, 95, 98, 99, 100)
# Losses above these factors of the lowest one, and of the best of the worst optimizer, are outside
# the picture: they would crush the rest.
_HIGHEST, _HIGHEST_BEST = 1.4, 1.05


@dataclass(frozen=True)
class View:
    """What a chart shows.

    Attributes:
        cells: the cells to draw, at least one, all of one schedule.
        among: those of all schedules; all their charts of one kind have the same axis of scores.
    """

    cells: Sequence[Cell]
    among: Sequence[Cell]

    @property
    def steps(self) -> str:
        """The schedule, for reading."""
        return _STEPS[self.cells[0].schedule]

    @property
    def best(self) -> list[Cell]:
        """Each optimizer at its best settings."""
        return [best(of(self.cells, name)) for name in names_of(self.cells)]


def views(cells: Sequence[Cell]) -> list[View]:
    """A view for every schedule."""
    return [View(own, cells) for own in by_schedule(cells)]


def _unit(view: View) -> str:
    return "test accuracy in %" if view.cells[0].higher else "test loss in nats"


def _score_axis(axes: Axes, view: View, values: Iterable[float]) -> float:
    """Limit the axis of scores to some values, and return what is just outside of it.

    The axis is logarithmic in the error of an accuracy, because errors of 1 and of 50 points must
    both be visible. Of losses it leaves out the highest ones.
    """
    finite = [value for value in values if math.isfinite(value)]
    axes.set_ylabel(_unit(view) + (", log scale of error" if view.cells[0].higher else ""))
    axes.grid(alpha=0.25)
    if not finite:
        axes.set_ylim(0, 1)
        return 2.0
    low, high = min(finite), max(finite)
    if view.cells[0].higher:
        axes.set_yscale("function", functions=(_spread, _gather))
        ends = _spread(np.array([low, high]))
        margin = max(0.04 * (ends[1] - ends[0]), 0.01)
        low, high = _gather(ends + np.array([-margin, margin]))
        axes.set_ylim(max(low, 0), high)
        inside = [tick for tick in _ACCURACIES if low <= tick <= high]
        if len(inside) > 2:
            axes.set_yticks(inside)
            axes.set_yticks([], minor=True)
        return math.inf
    needed = [cell.mean for other in views(view.among) for cell in other.best]
    worst = max((mean for mean in needed if math.isfinite(mean)), default=low)
    high = min(high, max(_HIGHEST * low, _HIGHEST_BEST * worst))
    margin = max(0.04 * (high - low), 0.001)
    axes.set_ylim(low - margin, high + margin)
    return 2 * high + margin


def _spread(percent: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(-np.log(101 - np.minimum(percent, 100.5)))


def _gather(value: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(101 - np.exp(-value))


def _line(
    axes: Axes, x: Sequence[float], scores: Sequence[Sequence[float]], beyond: float, **look: Any
) -> None:
    """The means over seeds as a line, and their range as a band; values far outside are cut."""
    axes.plot(x, np.minimum([fmean(each) for each in scores], beyond), markersize=4, **look)
    lows = np.minimum([min(each) for each in scores], beyond)
    highs = np.minimum([max(each) for each in scores], beyond)
    axes.fill_between(x, lows, highs, color=look["color"], alpha=0.15, linewidth=0)


def by_step(axes: Axes, view: View) -> None:
    """Score against step size, the threshold chosen at each: the mean, and the seeds' range."""
    among = [line for other in views(view.among) for line in lines_of(other.cells).values()]
    scores = (score for line in among for cell in line for score in cell.scores.values())
    beyond = _score_axis(axes, view, scores)
    for name, line in lines_of(view.cells).items():
        _line(
            axes,
            [cell.lr for cell in line],
            [list(cell.scores.values()) for cell in line],
            beyond,
            color=COLOURS[name],
            marker=MARKERS[name],
            label=OPTIMIZERS[name].label,
        )
    axes.set_xscale("log", base=2)
    axes.set(title=f"{view.steps}: by step size", xlabel="step size")
    legend_below(axes, 2)


def over_time(axes: Axes, view: View) -> None:
    """Score after every epoch, each optimizer at its best: the mean, and the seeds' range."""
    among = [cell for other in views(view.among) for cell in other.best]
    values = (score for cell in among for scores in _curve(cell) for score in scores)
    beyond = _score_axis(axes, view, values)
    for cell in view.best:
        curve = _curve(cell)
        if curve:
            _line(
                axes,
                range(1, len(curve) + 1),
                curve,
                beyond,
                color=COLOURS[cell.optimizer],
                marker=MARKERS[cell.optimizer] if len(curve) == 1 else "",
                label=typeset(cell.name),
            )
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set(title=f"{view.steps}: each at its best", xlabel="epoch")
    legend_below(axes)


def _curve(cell: Cell) -> list[tuple[float, ...]]:
    """The scores of all seeds after every epoch that all of them have; old rows have none."""
    runs = ([cell.scale(score) for score in row.result.scores] for row in cell.rows)
    return list(zip(*runs, strict=False))


def by_rho(axes: Axes, view: View) -> None:
    """Score of Clipped Scion against the threshold, a line for every step size."""
    ours = of(view.cells, _CLIPPED)
    steps = sorted({cell.lr for cell in ours})
    plain = [cell for cell in view.best if cell.optimizer == "scion"]
    among = of(view.among, _CLIPPED) + [c for other in views(view.among) for c in other.best]
    beyond = _score_axis(axes, view, (cell.mean for cell in among))
    shades = mpl.colormaps["viridis"](np.linspace(0, 0.9, len(steps)))
    for lr, shade in zip(steps, shades, strict=True):
        line = sorted((c for c in ours if c.lr == lr), key=lambda cell: cell.rho or 0)
        means = np.minimum([cell.mean for cell in line], beyond)
        label = typeset(f"step {format_step(lr)}")
        axes.plot([cell.rho or 0.0 for cell in line], means, marker="o", color=shade, label=label)
    for cell in plain:
        axes.axhline(cell.mean, color=COLOURS["scion"], linestyle="--", label="Scion, best")
    axes.set_xscale("log", base=2)
    axes.set(title=f"{view.steps}: by threshold", xlabel="threshold ρ")
    legend_below(axes, 3)


def heat(axes: Axes, view: View) -> None:
    """Mean score of Clipped Scion over steps and thresholds, and without clipping."""
    ours, plain = of(view.cells, _CLIPPED), of(view.cells, "scion")
    steps = sorted({cell.lr for cell in ours + plain})
    rhos: list[float] = sorted({cell.rho for cell in ours if cell.rho is not None})
    columns = rhos + ([math.inf] if plain else [])
    table = np.full((len(steps), len(columns)), np.nan)
    for cell in ours + plain:
        column = columns.index(math.inf if cell.rho is None else cell.rho)
        table[steps.index(cell.lr), column] = cell.mean if math.isfinite(cell.mean) else np.nan
    higher = view.cells[0].higher
    axes.imshow(table, aspect="auto", origin="lower", cmap="viridis" if higher else "viridis_r")
    middle = np.nanmean(table) if np.isfinite(table).any() else 0.0
    for (row, column), value in np.ndenumerate(table):
        if not np.isnan(value):
            dark = (value < middle) == higher
            text = f"{value:.1f}" if higher else f"{value:.2f}"
            colour = "white" if dark else "black"
            axes.text(column, row, text, ha="center", va="center", fontsize=9, color=colour)
    names = ["none" if math.isinf(rho) else f"{rho:g}" for rho in columns]
    axes.set_xticks(range(len(columns)), names)
    axes.set_yticks(range(len(steps)), [typeset(format_step(lr)) for lr in steps])
    axes.set(title=f"{view.steps}: {_unit(view)}", xlabel="threshold ρ", ylabel="step size")


def gap(axes: Axes, view: View) -> None:
    """The gap <d, w> of constrained runs, and the weights' part of it, each optimizer at its best.

    With ``w = x - u``, where ``u`` is the point of the ball furthest against ``d``, the gap is the
    dual norm of ``d`` less ``-<d, x>``. Means of every epoch; ``-<d, x>`` is that at its end.
    """
    for cell in view.best:
        for number, row in enumerate(cell.rows):
            result, colour = row.result, COLOURS[cell.optimizer]
            means = [part.mean() for part in np.array_split(result.trace, result.epochs_done)]
            text = typeset(cell.name) if number == 0 else None
            axes.plot(range(1, len(means) + 1), means, color=colour, alpha=0.7, label=text)
            weights = range(1, len(result.inner) + 1)
            axes.plot(weights, result.inner, color=colour, alpha=0.7, linestyle=":")
    axes.plot([], [], color=INK, linestyle=":", label="-<d, x>, the weights' part")
    # Linear near 0, because the weights' part may change its sign.
    axes.set_yscale("symlog", linthresh=0.1)
    legend_below(axes)
    axes.grid(alpha=0.25)
    axes.set(title=f"{view.steps}: the gap <d, w>", xlabel="epoch", ylabel="<d, w>")


Chart = Callable[[Axes, View], None]
CHARTS: Mapping[str, Chart] = {
    "by-step": by_step,
    "over-time": over_time,
    "by-rho": by_rho,
    "heat": heat,
    "gap": gap,
}


def draw(names: Sequence[str], cells: Sequence[Cell], kind: str, title: str = "") -> bytes:
    """Charts side by side; with several schedules, a row of panels for each chart.

    Equal input gives equal bytes.

    Args:
        names: keys of ``CHARTS``.
        kind: ``"png"`` or ``"svg"``.
    """
    for name in names:
        if name not in CHARTS:
            raise unknown("chart", name, CHARTS)
    shown = views(cells)
    panels = [showing(view, CHARTS[name]) for name in names for view in shown]
    columns = len(shown) if len(shown) > 1 else len(names)
    return render(panels, kind, size=_size(cells), title=title, columns=columns)


def draw_one(name: str, view: View) -> bytes:
    """One chart of one schedule as an SVG."""
    return render([showing(view, CHARTS[name])], "svg", size=_size(view.among))


def _size(cells: Sequence[Cell]) -> tuple[float, float]:
    """Of a panel, in inches: at this width the letters are readable on a page of 400 pixels."""
    return 4.6, 3.6 + 0.21 * len(names_of(cells))
