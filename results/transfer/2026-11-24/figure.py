"""Draw the two figures from rows.jsonl: python results/transfer/2026-11-24/figure.py"""

import json
from pathlib import Path

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt

from normball._style import VECTOR

HERE = Path(__file__).parent
TITLES = {"mlp": "MLP, Fashion-MNIST", "gpt": "GPT, characters"}
LABELS = {"clipped-scion": "Clipped Scion", "adamw": "AdamW"}
LIMITS = {"mlp": (0.38, 0.8), "gpt": (2.15, 3.0)}
COLOURS = plt.get_cmap("viridis")


def rows_of(**wanted: object) -> list[dict]:
    lines = (HERE / "rows.jsonl").read_text().splitlines()
    rows = map(json.loads, lines)
    return [r for r in rows if all(r["setting"][key] == value for key, value in wanted.items())]


def lr_figure() -> None:
    """Loss against step size, one line for each width."""
    figure, axes = plt.subplots(2, 2, figsize=(7.4, 6.4), sharey="row", layout="constrained")
    for line, task in zip(axes, TITLES, strict=True):
        for ax, optimizer in zip(line, LABELS, strict=True):
            rows = rows_of(part="width", task=task, optimizer=optimizer)
            widths = sorted({row["setting"]["width"] for row in rows})
            for i, width in enumerate(widths):
                curve = sorted(
                    (row["setting"]["lr"], row["held_out"])
                    for row in rows
                    if row["setting"]["width"] == width
                )
                colour = COLOURS(0.9 * i / 4)
                ax.plot(*zip(*curve, strict=True), ".-", color=colour, label=f"width {width}")
                best = min(curve, key=lambda point: point[1])
                ax.plot(*best, "o", mfc="none", ms=10, color=colour)
            ax.set_xscale("log", base=2)
            ax.set_ylim(LIMITS[task])
            ax.set_title(f"{LABELS[optimizer]} – {TITLES[task]}", fontsize=10)
            ax.grid(alpha=0.2)
        line[0].set_ylabel("held-out loss")
    for ax in axes[1]:
        ax.set_xlabel("lr")
    axes[0][0].legend(fontsize=8)
    figure.savefig(HERE / "lr.svg", metadata={"Date": None})


def dual_norm_figure() -> None:
    """The dual norm at the start, at its largest and at the end, against width and depth."""
    figure, axes = plt.subplots(2, 2, figsize=(7.4, 6.4), layout="constrained")
    for line, task in zip(axes, TITLES, strict=True):
        for ax, key in zip(line, ("width", "depth"), strict=True):
            rows = rows_of(part=key, task=task, optimizer="clipped-scion", lr=2.0**-7)
            rows.sort(key=lambda row: row["setting"][key])
            sizes = [row["setting"][key] for row in rows]
            curves = {
                "gradient at the start": [sum(row["start"].values()) for row in rows],
                "of it, hidden layers": [row["start"].get("hidden") for row in rows],
                "largest in training": [max(row["dual_norms"]) for row in rows],
                "mean of the last 20 steps": [sum(row["dual_norms"][-20:]) / 20 for row in rows],
            }
            for (name, values), style in zip(curves.items(), ("o-", "o:", "s-", "^-"), strict=True):
                ax.plot(sizes, values, style, label=name)
            ax.set_xscale("log", base=2)
            ax.set_yscale("log")
            ax.set_xticks(sizes, sizes)
            ax.set_title(f"{TITLES[task]}, against {key}", fontsize=10)
            ax.grid(alpha=0.2)
        line[0].set_ylabel("dual norm")
    handles, names = axes[1][1].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=2, fontsize=8)
    figure.savefig(HERE / "dual-norm.svg", metadata={"Date": None})


if __name__ == "__main__":
    matplotlib.rcParams.update(VECTOR)
    lr_figure()
    dual_norm_figure()
