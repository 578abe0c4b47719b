"""How the gallery's pictures look: as SVGs that read on light pages and on dark ones."""

import math
import os
from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

INK = "#768390"  # a grey with enough contrast to white and to black
RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
BLUE, ORANGE, GREEN = "#3a8fd1", "#d55e00", "#1a9e78"

plt.rcParams.update(
    {
        "figure.figsize": (6.67, 3.2),  # 640 pixels wide in a browser
        "figure.constrained_layout.use": True,
        "savefig.transparent": True,
        "svg.fonttype": "none",  # text stays text
        "svg.hashsalt": "normball",  # equal pictures have equal bytes
        "font.size": 10,
        "font.sans-serif": ["Helvetica", "Arial", "DejaVu Sans"],
        "axes.titlesize": 11,
        "axes.titlelocation": "left",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "legend.frameon": False,
        **dict.fromkeys(
            ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), INK
        ),
    }
)


def power(value: float, base: float) -> str:
    """Return a power of the base with its exponent in letters of full size."""
    exponent = str(round(math.log(value, base)))
    return f"{base:g}{exponent.translate(RAISED)}"


def save(figure: Figure, name: str) -> None:
    """Write `name`.svg into the folder NORMBALL_PICTURES, by default the current one."""
    folder = Path(os.environ.get("NORMBALL_PICTURES", "."))
    folder.mkdir(parents=True, exist_ok=True)
    for axis in (axis for axes in figure.axes for axis in (axes.xaxis, axes.yaxis)):
        if axis.get_scale() == "log":
            base = axis.get_transform().base
            axis.set_major_formatter(lambda value, _, base=base: power(value, base))
            axis.set_minor_formatter(NullFormatter())
    figure.savefig(folder / f"{name}.svg", metadata={"Date": None})
