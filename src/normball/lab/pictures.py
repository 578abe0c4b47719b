"""The style of all pictures: readable on light and on dark pages, and reproducible."""

import io
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import TypeVar

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from normball._style import FORM, VECTOR, readable

# Colours that also differ for the colour-blind, and on paper.
COLOURS: Mapping[str, str] = MappingProxyType(
    {
        "adam": "#6b7280",
        "scion": "#d55e00",
        "clipped-scion": "#0072b2",
        "clipped-scion-auto": "#56b4e9",
        "default": "#7c3aed",
        "adamw": "#cc79a7",
        "muon": "#009e73",
        "sgd-clip": "#e69f00",
    }
)
MARKERS: Mapping[str, str] = MappingProxyType(
    {
        "adam": "s",
        "scion": "^",
        "clipped-scion": "o",
        "clipped-scion-auto": "X",
        "default": "*",
        "adamw": "D",
        "muon": "v",
        "sgd-clip": "P",
    }
)

Panel = Callable[[Axes], None]
Subject = TypeVar("Subject")


def showing(subject: Subject, draw: Callable[[Axes, Subject], None]) -> Panel:
    """A panel that shows something.

    Args:
        subject: what to show.
        draw: draws it into axes.
    """
    return lambda axes: draw(axes, subject)


def render(
    panels: Sequence[Panel], kind: str, *, size: tuple[float, float] = (5.5, 4.3), title: str = ""
) -> bytes:
    """Panels side by side as the bytes of a file; equal input gives equal bytes.

    An SVG is transparent, with grey lines and text as text; a PNG is black on white.

    Args:
        panels: each draws into the axes that it is given.
        kind: ``"png"`` or ``"svg"``.
        size: of one panel, in inches.
        title: above all of them.
    """
    vector = kind == "svg"
    with mpl.rc_context(VECTOR if vector else FORM):
        figure = Figure(figsize=(size[0] * len(panels), size[1]), layout="constrained")
        FigureCanvasAgg(figure)
        if title:
            figure.suptitle(title, fontsize=11)
        for axes, panel in zip(
            figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True
        ):
            panel(axes)
        target = io.BytesIO()
        metadata = {"Date": None} if vector else None
        readable(figure).savefig(target, format=kind, dpi=150, metadata=metadata)
    return target.getvalue()
