"""The arena's pictures: a curve for each method and task, and the performance profile."""

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes

from normball.lab.arena.judge import Standing, profile
from normball.lab.arena.methods import METHODS
from normball.lab.arena.tasks import TASKS
from normball.lab.pictures import render

COLOURS: Mapping[str, str] = {
    "adamw": "#cc79a7",
    "schedule-free": "#e69f00",
    "prodigy": "#6b7280",
    "muon": "#009e73",
    "soap": "#a0522d",
    "scion": "#d55e00",
    "decay": "#8250df",
    "anytime": "#0072b2",
    "untuned": "#56b4e9",
}
_WIDEST = 4.0


def draw_curves(standing: Standing) -> bytes:
    """Scores by step, means over seeds and their range, as an SVG."""

    def draw(axes: Axes) -> None:
        shown: list[float] = []
        for method, entry in standing.entries.items():
            whole = [r for r in entry.results if math.isfinite(r.score)]
            if not whole:
                continue
            steps = [step for step, _ in whole[0].curve]
            scores = np.array([[score for _, score in result.curve] for result in whole])
            mean = scores.mean(0)
            axes.plot(steps, mean, color=COLOURS[method], label=METHODS[method].label)
            axes.fill_between(
                steps, scores.min(0), scores.max(0), color=COLOURS[method], alpha=0.12, linewidth=0
            )
            shown += [mean[-1], mean[len(steps) // 3]]
        if shown:  # the start and diverging runs would set the scale and hide the rest
            low = min(shown)
            high = max(min(max(shown), 3 * low), 1.05 * low)
            axes.set_ylim(low - 0.1 * (high - low), high)
        axes.set(title=standing.task, xlabel="step", ylabel=TASKS[standing.task].unit)

    return _picture(draw, 5.4)


def draw_settings(standing: Standing) -> bytes:
    """Scores on the choosing seed by setting, as an SVG."""

    def draw(axes: Axes) -> None:
        best = [min(entry.tried.values()) for entry in standing.entries.values() if entry.tried]
        for method, entry in standing.entries.items():
            shown = {x: y for x, y in entry.tried.items() if math.isfinite(y)}
            if len(shown) > 1:
                places = [value / METHODS[method].centre for value in shown]
                label = METHODS[method].label
                axes.plot(places, list(shown.values()), "o-", color=COLOURS[method], label=label)
        axes.set_xscale("log", base=2)
        if best and min(best) > 0:  # diverging runs would set the scale and hide the rest
            low = min(best)
            axes.set_ylim(0.98 * low, min(axes.get_ylim()[1], 2 * low))
        axes.set(
            title=standing.task,
            xlabel="setting over the one that is recommended",
            ylabel=TASKS[standing.task].unit,
        )

    return _picture(draw, 5.4)


def draw_profile(times: Mapping[str, Sequence[float]]) -> bytes:
    """The performance profile, as an SVG."""

    def draw(axes: Axes) -> None:
        for method, corners in profile(times).items():
            inside = [corner for corner in corners if corner[0] <= _WIDEST]
            x = [1.0, *(factor for factor, _ in inside), _WIDEST]
            y = [0.0, *(share for _, share in inside)]
            y.append(y[-1])
            axes.step(x, y, where="post", color=COLOURS[method], label=METHODS[method].label)
        axes.set(
            title="steps to tuned AdamW's final score",
            xlabel="factor of the fastest method's steps",
            ylabel="share of the tasks",
            xlim=(1, _WIDEST),
            ylim=(0, 1.02),
        )

    return _picture(draw, 6.6)


def _picture(draw: Callable[[Axes], None], wide: float) -> bytes:
    def panel(axes: Axes) -> None:
        draw(axes)
        axes.grid(alpha=0.25)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(fontsize=9)

    return render([panel], "svg", size=(wide, 4.2))
