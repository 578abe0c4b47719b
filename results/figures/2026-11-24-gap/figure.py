"""Draw gap.svg and gap.png from gap.jsonl, and print the table: python .../figure.py"""

import json
from pathlib import Path
from statistics import fmean

import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt

HERE = Path(__file__).parent
VECTORS = {
    "seen": ("estimate d", "#d55e00"),
    "other": ("estimate, other batches", "#009e73"),
    "true": ("true gradient", "#0072b2"),
}
DECAYS = {
    "constant": "fixed step",
    "linear": "linear decay",
    "trapezoidal": "decay from step 286",
    "frozen": "frozen from 7/10",
}


def gap(row: dict, name: str) -> float:
    return row[f"{name}_norm"] - row[f"{name}_inner"]


def against(row: dict) -> float:
    """-<gradient, x> as a share of the most that weights of their length allow."""
    return row["true_inner"] / (row["true_norm"] * row["length"])


def runs(rows: list[dict]) -> dict[tuple[str, str], dict[int, list[dict]]]:
    found: dict[tuple[str, str], dict[int, list[dict]]] = {}
    for row in rows:
        seeds = found.setdefault((row["case"], row["schedule"]), {})
        seeds.setdefault(row["seed"], []).append(row)
    cases = list(dict.fromkeys(case for case, _ in found))
    return dict(sorted(found.items(), key=lambda item: cases.index(item[0][0])))


def draw(found: dict[tuple[str, str], dict[int, list[dict]]]) -> None:
    figure, axes = plt.subplots(
        3, len(found), figsize=(2.2 * len(found), 7.5), layout="constrained"
    )
    for column, ((case, schedule), seeds) in zip(axes.T, found.items(), strict=True):
        column[0].set_title(f"{case}\n{DECAYS[schedule]}", fontsize=10)
        for number, seed in enumerate(seeds.values()):
            steps = [row["step"] for row in seed]
            for name, (label, colour) in VECTORS.items():
                text = label if number == 0 else None
                column[0].plot(steps, [gap(r, name) for r in seed], color=colour, label=text, lw=1)
                column[1].plot(steps, [r[f"{name}_inner"] for r in seed], color=colour, lw=1)
            labels = ("‖x‖ / radius", "-<g, x> / ‖g‖*‖x‖") if number == 0 else (None, None)
            column[2].plot(steps, [r["length"] for r in seed], "k--", lw=1, label=labels[0])
            column[2].plot(
                steps, [against(r) for r in seed], color="#0072b2", lw=1, label=labels[1]
            )
        column[0].set_yscale("log")
        column[2].set_ylim(-0.1, 1.05)
        column[2].set_xlabel("step")
        for ax in column:
            ax.grid(alpha=0.2)
    for ax, text in zip(
        axes[:, 0], ("gap ‖·‖* + <·, x>", "-<·, x>", "weights, true gradient"), strict=True
    ):
        ax.set_ylabel(text)
    axes[0, 0].legend(fontsize=7)
    axes[2, 0].legend(fontsize=7)
    for kind in ("svg", "png"):
        figure.savefig(
            HERE / f"gap.{kind}", dpi=110, metadata={"Date": None} if kind == "svg" else None
        )


def table(found: dict[tuple[str, str], dict[int, list[dict]]]) -> None:
    print("| case | at | loss | gap seen | gap | -<d,x> | -<g,x> | ‖d - g‖*/‖g‖* | ‖x‖ | share |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    for (case, schedule), seeds in found.items():
        for place, index in (("a quarter", 0.25), ("three quarters", 0.75), ("the end", 1.0)):
            points = [seed[round(index * len(seed)) - 1] for seed in seeds.values()]
            values = [
                [point["loss"] for point in points],
                [gap(point, "seen") for point in points],
                [gap(point, "true") for point in points],
                [point["seen_inner"] for point in points],
                [point["true_inner"] for point in points],
                [point["error"] / point["true_norm"] for point in points],
                [point["length"] for point in points],
                [against(point) for point in points],
            ]
            cells = " | ".join(f"{fmean(value):.3g}" for value in values)
            print(f"| {case}, {DECAYS[schedule]} | {place} | {cells} |")


if __name__ == "__main__":
    found = runs([json.loads(line) for line in (HERE / "gap.jsonl").read_text().splitlines()])
    draw(found)
    table(found)
