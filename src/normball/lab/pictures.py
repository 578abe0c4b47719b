"""The style of all pictures: readable on light and on dark pages, and reproducible."""

import io
from collections.abc import Callable, Sequence
from typing import TypeVar

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.transforms import ScaledTranslation

from normball._style import FORM, VECTOR, readable

# Colours that also differ for the colour-blind, and on paper; and markers.
_LOOKS = {
    "adam": ("#6b7280", "s"),
    "scion": ("#d55e00", "^"),
    "clipped-scion": ("#0072b2", "o"),
    "clipped-scion-auto": ("#56b4e9", "X"),
    "default": ("#7c3aed", "*"),
    "adamw": ("#cc79a7", "D"),
    "muon": ("#009e73", "v"),
    "sgd-clip": ("#e69f00", "P"),
}
COLOURS = {name: colour for name, (colour, _) in _LOOKS.items()}
MARKERS = {name: marker for name, (_, marker) in _LOOKS.items()}

Panel = Callable[[Axes], None]
Subject = TypeVar("Subject")


def showing(subject: Subject, draw: Callable[[Axes, Subject], None]) -> Panel:
    """A panel that shows something."""
    return lambda axes: draw(axes, subject)


def legend_below(axes: Axes, columns: int = 1) -> None:
    """A legend under the axis's label, where no line can be; none if nothing has a label."""
    figure = axes.get_figure(root=True)
    if figure is not None and axes.get_legend_handles_labels()[0]:
        lower = ScaledTranslation(0, -0.52, figure.dpi_scale_trans)
        axes.legend(
            loc="upper center",
            bbox_to_anchor=(0.5, 0),
            bbox_transform=axes.transAxes + lower,
            borderaxespad=0,
            handlelength=1.4,
            columnspacing=1.4,
            ncols=columns,
        )


def render(
    panels: Sequence[Panel],
    kind: str,
    *,
    size: tuple[float, float] = (5.5, 4.3),
    title: str = "",
    columns: int | None = None,
) -> bytes:
    """Panels as the bytes of a file; equal input gives equal bytes.

    An SVG is transparent, with grey lines and text as text; a PNG is black on white.

    Args:
        size: of one panel, in inches.
        columns: how many are side by side; all when None.
    """
    across = columns or len(panels)
    down = -(-len(panels) // across)
    vector = kind == "svg"
    with mpl.rc_context(VECTOR if vector else FORM):
        figure = Figure(figsize=(size[0] * across, size[1] * down), layout="constrained")
        FigureCanvasAgg(figure)
        if title:
            figure.suptitle(title, fontsize=11)
        places = figure.subplots(down, across, squeeze=False).flat
        for axes, panel in zip(places, panels, strict=True):
            panel(axes)
        target = io.BytesIO()
        metadata = {"Date": None} if vector else None
        readable(figure).savefig(target, format=kind, dpi=150, metadata=metadata)
    return target.getvalue()
