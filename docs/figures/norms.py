"""Draw the picture of docs/choose.md, slices of the matrix norms' unit balls: `make figures`."""

import math
from pathlib import Path

import matplotlib as mpl
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from normball._style import VECTOR, readable
from normball.norms import Column, Euclidean, Norm, Nuclear, Row, Schatten, Sign, Spectral

NORMS = {
    "Spectral": Spectral(),
    "Schatten(4)": Schatten(4.0),
    "Euclidean": Euclidean(),
    "Nuclear": Nuclear(),
    "Column": Column(),
    "Row": Row(),
    "Sign": Sign(),
}


SLICES = {
    "diagonal": ((1, 1), "#0072b2"),
    "one row": ((0, 1), "#d55e00"),
    "one column": ((1, 0), "#009e73"),
}


def draw_slice(norm: Norm, axes: Axes, other: tuple[int, int], colour: str) -> None:
    """The unit sphere among the matrices with entries at (0, 0) and `other`, scaled to fit."""
    angles = torch.linspace(0, 2 * math.pi, 121, dtype=torch.float64)
    edge = []
    for angle in angles:
        w = torch.zeros(2, 2, dtype=torch.float64)
        w[0, 0], w[other] = angle.cos(), angle.sin()
        edge.append([float(angle.cos() / norm.norm(w)), float(angle.sin() / norm.norm(w))])
    x, y = np.array(edge).T / np.abs(edge).max()
    axes.fill(x, y, color=colour, alpha=0.15, linewidth=0)
    axes.plot(x, y, color=colour, linewidth=1.4)
    axes.set(aspect="equal", xlim=(-1.15, 1.15), ylim=(-1.15, 1.15), xticks=[], yticks=[])
    axes.spines[:].set_visible(False)


if __name__ == "__main__":
    mpl.rcParams.update(VECTOR)
    figure = Figure(figsize=(7.4, 3.7), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(len(SLICES), len(NORMS))
    for column, (name, norm) in zip(grid.T, NORMS.items(), strict=True):
        column[0].set_title(name, fontsize=9, loc="center")
        for axes, (label, (other, colour)) in zip(column, SLICES.items(), strict=True):
            draw_slice(norm, axes, other, colour)
            if norm is NORMS["Spectral"]:
                axes.set_ylabel(label)
    readable(figure).savefig(Path(__file__).with_suffix(".svg"), metadata={"Date": None})
