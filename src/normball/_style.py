"""How pictures look: matplotlib's settings for SVGs that read on light and on dark pages."""

from typing import Any

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
