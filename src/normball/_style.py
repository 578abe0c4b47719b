"""How pictures look: matplotlib's settings for SVGs that read on light and on dark pages."""

import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# A grey with enough contrast to white and to black.
INK = "#768390"
FORM: dict[Any, Any] = {
    "font.size": 10,
    "font.sans-serif": ["Helvetica", "Arial", "DejaVu Sans"],
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "legend.frameon": False,
}
# Text stays text, and equal input gives equal bytes.
VECTOR: dict[Any, Any] = FORM | {
    "svg.hashsalt": "normball",
    "svg.fonttype": "none",
    "savefig.transparent": True,
    **dict.fromkeys(
        ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), INK
    ),
}

_RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def raised(text: str) -> str:
    """Return digits and minus signs as superscripts, which have the size of other letters."""
    return text.translate(_RAISED)


def power(value: float, base: float) -> str:
    """Return a number as a power of `base` if it is one."""
    exponent = round(math.log(value, base)) if value > 0 else 0
    if value > 0 and math.isclose(base**exponent, value, rel_tol=1e-6):
        return f"{base:g}{raised(str(exponent))}"
    return f"{value:g}"


def readable(figure: "Figure") -> "Figure":
    """Write the numbers of logarithmic axes in letters of one size, and return the figure.

    matplotlib's own exponents have 70 % of the size, which is too small on a page.
    """
    from matplotlib.ticker import LogFormatter

    class Powers(LogFormatter):
        def __init__(self, base: float, **options: Any) -> None:
            super().__init__(base, **options)
            self.of = base

        def __call__(self, x: float, pos: int | None = None) -> str:
            return power(x, self.of) if super().__call__(x, pos) else ""

    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            if axis.get_scale() == "log":
                base = axis.get_transform().base  # type: ignore[attr-defined]
                axis.set_major_formatter(Powers(base))
                axis.set_minor_formatter(Powers(base, labelOnlyBase=False))
    return figure


def new_axes() -> "Axes":
    """Return the axes of a new figure."""
    axes: Axes = new_figure(figsize=(6, 4), height_ratios=None).axes[0]
    return axes


def new_figure(figsize: tuple[float, float], height_ratios: Any) -> "Figure":
    """Return a figure with one panel, or with four whose rows have these heights."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise ImportError(
            'normball.plot draws with matplotlib: pip install "normball[plot]"'
        ) from None
    figure = Figure(figsize=figsize, layout="constrained")
    if height_ratios is None:
        figure.subplots()
    else:
        figure.subplots(2, 2, height_ratios=height_ratios)
    return figure
