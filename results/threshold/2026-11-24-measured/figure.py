"""Score against step size: no threshold, the best threshold of a grid at each step, measured."""

import sys
from pathlib import Path

from matplotlib.figure import Figure

from normball.lab.cells import best_per_step, make_cells, of
from normball.lab.rows import read_rows

HERE = Path(__file__).parent
PANELS = {
    "digits": ("digits", "test accuracy, %", (80, 100)),
    "fashion-mnist": ("Fashion-MNIST, a fifth", "test accuracy, %", (70, 90)),
    "shakespeare": ("characters, 300 steps", "test loss, nats", (2.0, 2.5)),
}
LINES = {
    "scion": ("Scion: no threshold", "#999999", "s"),
    "clipped-scion": ("Clipped Scion, best rho of the grid at each step", "#0072b2", "o"),
    "clipped-scion-auto": ('Clipped Scion, rho="auto"', "#d55e00", "D"),
}

figure = Figure(figsize=(11, 3.6), layout="constrained")
for axes, (folder, (title, what, limits)) in zip(
    figure.subplots(1, 3), PANELS.items(), strict=True
):
    cells = make_cells(read_rows(HERE / folder / "rows.jsonl"))
    for name, (label, color, marker) in LINES.items():
        line = best_per_step(of(cells, name))
        axes.plot(
            [c.lr for c in line], [c.mean for c in line], color=color, marker=marker, label=label
        )
    axes.set_xscale("log", base=2)
    axes.set(title=title, xlabel="step size", ylabel=what, ylim=limits)
    axes.grid(alpha=0.3)
handles, labels = figure.axes[0].get_legend_handles_labels()
figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False)
for kind in ("svg", "png"):
    figure.savefig(Path(sys.argv[1]) / f"figure.{kind}", dpi=140)
