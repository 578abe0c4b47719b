"""The pictures of the theory. Needs matplotlib, of the extra `normball[lab]`."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from normball._style import INK, VECTOR, readable
from normball.theory.separation import Separation
from normball.theory.verdicts import Curve

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Colours that also differ for the colour-blind, and on paper.
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#6b7280")


def draw_curves(curves: Sequence[Curve], title: str, path: Path) -> None:
    """Draw measured curves, solid, and their bounds, dashed, in one panel for each norm.

    Args:
        curves: of any norms; curves of one label share a colour.
        title: of the figure.
        path: of the SVG to write.
    """
    import matplotlib as mpl

    with mpl.rc_context(VECTOR):
        norms = list(dict.fromkeys(curve.norm for curve in curves))
        labels = list(dict.fromkeys(curve.label for curve in curves))
        figure, axes = _figure(len(norms))
        for axis, norm in zip(axes, norms, strict=True):
            for curve in curves:
                if curve.norm == norm:
                    _draw_curve(axis, curve, _COLOURS[labels.index(curve.label)])
            axis.set(title=norm, xlabel="steps n", xscale="log", yscale="log")
            axis.grid(alpha=0.25)
        for axis in axes[::2]:
            axis.set_ylabel("dual norm or gap (dashed: its bound)")
        handles, texts = axes[0].get_legend_handles_labels()
        columns = 2 if max(map(len, texts)) <= 38 else 1
        figure.legend(handles, texts, loc="outside lower center", ncols=columns, frameon=False)
        figure.suptitle(title, x=0.01, ha="left", fontsize=11)
        readable(figure).savefig(path, metadata={"Date": None})


def _draw_curve(axis: "Axes", curve: Curve, colour: str) -> None:
    # Points at equal ratios give a file of reasonable size, and lose nothing on a log axis.
    count = len(curve.measured)
    places = sorted({round(count ** (i / 200)) for i in range(201)})
    # Values below this are rounding errors.
    floor = 1e-13 * max(curve.measured)
    shown = [v if v > floor else math.nan for v in (curve.measured[n - 1] for n in places)]
    axis.plot(places, shown, color=colour, label=curve.label)
    axis.plot(places, [curve.bound[n - 1] for n in places], color=colour, linestyle="--")


def draw_separation(separation: Separation, path: Path) -> None:
    """Draw the last dual norm of SD, uCG and GGNC against the step.

    Args:
        separation: what to draw.
        path: of the SVG to write.
    """
    import matplotlib as mpl

    with mpl.rc_context(VECTOR):
        figure, (axis,) = _figure(1, width=6.4)
        top, floor = 1e3 * separation.start, 1e-13 * separation.start
        rows = (
            ("SD: diverges", separation.sd, "s"),
            ("uCG: stalls at its radius", separation.ucg, "^"),
            ("GGNC", separation.ggnc, "o"),
        )
        for colour, (label, values, marker) in zip(_COLOURS, rows, strict=False):
            shown = [min(max(v, floor), top) if math.isfinite(v) else top for v in values]
            axis.plot(
                separation.multiples,
                shown,
                marker=marker,
                markersize=3.5,
                color=colour,
                label=label,
            )
        axis.axvline(1, color=INK, linestyle=":", linewidth=1)
        axis.axhline(separation.start, color=INK, linestyle="-", linewidth=0.5)
        axis.text(1.1, floor * 3, "allowed by Thm 4.3 | not", fontsize=9, ha="center")
        axis.text(
            separation.multiples[0], separation.start * 1.5, "dual norm at the start", fontsize=9
        )
        axis.set(
            title=f"After the same number of steps on {separation.problem}",
            xlabel="step, in units of the largest that Thm 4.3 allows",
            ylabel="last dual norm (cut off above and below)",
            xscale="log",
            yscale="log",
        )
        axis.grid(alpha=0.25)
        figure.legend(loc="outside lower center", ncols=2, frameon=False)
        readable(figure).savefig(path, metadata={"Date": None})


def _figure(panels: int, width: float = 3.1) -> "tuple[Figure, list[Axes]]":
    """Return a figure of at most two panels a row, so that a page shows it in full size."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = min(panels, 2)
    rows = -(-panels // columns)
    figure = Figure(figsize=(width * columns, 0.6 + 3.4 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False)
    return figure, list(axes.flat)[:panels]
