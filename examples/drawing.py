"""How the gallery's pictures look: as SVGs that read on light pages and on dark ones."""

import os
from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from normball._style import INK, VECTOR, readable

__all__ = ["BLUE", "GREEN", "INK", "ORANGE", "save"]
BLUE, ORANGE, GREEN = "#3a8fd1", "#d55e00", "#1a9e78"

# 6.67 inches are 640 pixels in a browser.
SIZE = {"figure.figsize": (6.67, 3.2), "figure.constrained_layout.use": True}
plt.rcParams.update(VECTOR | SIZE)


def save(figure: Figure, name: str) -> None:
    """Write `name`.svg into the folder NORMBALL_PICTURES, by default the current one."""
    folder = Path(os.environ.get("NORMBALL_PICTURES", "."))
    folder.mkdir(parents=True, exist_ok=True)
    readable(figure).savefig(folder / f"{name}.svg", metadata={"Date": None})
