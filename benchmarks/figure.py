"""One picture of the recorded rows: step time, and its growth against the operations."""

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("svg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from benchmarks.cases import REFERENCE

Row = dict[str, Any]
OURS = "normball, eigh"


def draw(rows: list[Row], path: Path) -> None:
    """Write the figure as SVG; of several rows for one thing the last one counts."""
    with plt.rc_context({"svg.hashsalt": "normball", "font.size": 9}):
        figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
        _bars(left, rows)
        _growth(right, rows)
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


def _growth(axes: Axes, rows: list[Row]) -> None:
    for axis in ("width", "depth", "parameters"):
        for name, style in ((REFERENCE, "--"), (OURS, "-")):
            points = {
                r["gflop"]: r["ms"]
                for r in rows
                if r["case"] == "growth" and r["axis"] == axis and r["name"] == name
            }
            color = {"width": "C0", "depth": "C1", "parameters": "C2"}[axis]
            if points:
                x, y = zip(*sorted(points.items()), strict=True)
                axes.plot(x, y, style, marker=".", color=color, label=f"{name}: {axis}")
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("operations of our step, Gflop")
    axes.set_ylabel("ms")
    axes.legend(frameon=False, fontsize=7)
