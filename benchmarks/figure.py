"""One picture of the recorded rows: step time, and its growth beside the operations."""

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("svg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import NullFormatter

from benchmarks.cases import REFERENCE
from normball._style import VECTOR

Row = dict[str, Any]
AXES = {
    "width": "width, one GPT layer",
    "depth": "depth, width 256",
    "parameters": "number of 64 x 64 matrices",
}
NAMES = {REFERENCE: "C7", "normball": "C0", "normball, Nonic": "C1"}


def draw(rows: list[Row], path: Path) -> None:
    """Write the figure as SVG; of several rows for one thing the last one counts."""
    rates = [r["gflops_per_s"] for r in rows if r["case"] == "floor"]
    with plt.rc_context(VECTOR | {"font.size": 9}):
        figure, grid = plt.subplots(2, 2, figsize=(8, 6.4), layout="constrained")
        axes = grid.flat
        _bars(axes[0], rows)
        for place, axis in zip(axes[1:], AXES, strict=True):
            _growth(place, rows, axis, rates[-1] if rates else None)
        for place in axes[1:]:
            place.set_ylabel("ms a step")
        axes[-1].legend(frameon=False, fontsize=9)
        figure.savefig(path, metadata={"Date": None})
        plt.close(figure)


def _bars(axes: Axes, rows: list[Row]) -> None:
    last = {(r["work"], r["name"]): r["ratio"] for r in rows if r["case"] == "step"}
    works = sorted({work for work, _ in last})
    names = list(dict.fromkeys(name for _, name in last))
    height = 0.8 / max(len(works), 1)
    for i, work in enumerate(works):
        values = [last.get((work, name), 0) for name in names]
        places = [j + i * height for j in range(len(names))]
        axes.barh(places, values, height, label=f"work {work}")
    axes.set_yticks([j + 0.3 for j in range(len(names))], names)
    axes.invert_yaxis()
    axes.axvline(1, color="0.5", linewidth=0.8)
    axes.set_xlabel("time of a step, torch.optim.Muon in fp32 = 1")
    if works:
        axes.legend(frameon=False)


def _growth(axes: Axes, rows: list[Row], axis: str, rate: float | None) -> None:
    """Draw the time over the optimizer's own operations, and the time of a product of that many."""
    reach: list[float] = []
    for name, color in NAMES.items():
        points = {
            r["value"]: (r["gflop"], r["ms"])
            for r in rows
            if r["case"] == "growth" and r["axis"] == axis and r["name"] == name
        }
        if points:
            x, y = zip(*(points[value] for value in sorted(points)), strict=True)
            axes.plot(x, y, marker=".", color=color, label=name)
            reach += x
    if rate and reach:
        ends = [min(reach), max(reach)]
        axes.plot(ends, [1e3 * x / rate for x in ends], ":", color="0.5", label="one large product")
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_title(AXES[axis], fontsize=9)
    axes.set_xlabel("its operations, Gflop")
