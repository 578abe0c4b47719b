"""Measurements that help to choose a step size: smoothness, and a range test; with pictures."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from normball import SmoothnessProbe
from normball.lab.config import RunConfig
from normball.lab.errors import LabError
from normball.lab.files import json_line
from normball.lab.machine import describe_machine, versions
from normball.lab.pictures import render
from normball.lab.results import RunResult
from normball.optim.finder import LrCurve
from normball.optim.probe import Fit

RECORD = "smoothness.json"


def fit_run(probe: SmoothnessProbe) -> Fit:
    """The line fitted to the measurements of a run; a LabError if they are too few."""
    try:
        return probe.fit()
    except ValueError as error:
        raise LabError(f"{error}: train longer, or measure more often with --every.") from None


def record(config: RunConfig, result: RunResult, probe: SmoothnessProbe, fit: Fit) -> bytes:
    """Everything measured, as JSON; numbers that are not finite become null."""
    data = probe.samples()
    values: dict[str, Any] = {
        "schema": "normball.smoothness/3",
        "config": asdict(config),
        "score": result.score,
        "fit": asdict(fit),
        "suggestion": {"lr": config.lr, "rho": fit.rho(config.lr)},
        "versions": versions(),
        "machine": describe_machine(),
        "samples": {name: column.tolist() for name, column in data.items()},
        "layers": {
            name: {"dual_norm": pairs[0].tolist(), "L": pairs[1].tolist()}
            for name, pairs in probe.layers().items()
        },
    }
    return json_line(values)


def refuse_other(path: Path, config: RunConfig) -> None:
    """Keep the measurements of another run from being written over, by a LabError."""
    if not path.exists():
        return
    try:
        there = json.loads(path.read_bytes())["config"]
    except (OSError, ValueError, KeyError, TypeError):
        there = None
    if there != asdict(config):
        raise LabError(
            f"{path} has the measurements of another run: choose another --out, or remove it."
        )


def draw(config: RunConfig, probe: SmoothnessProbe, fit: Fit, kind: str) -> bytes:
    """The scatter of measured smoothness against the dual norm, with the fitted line."""
    data = {name: value.numpy() for name, value in probe.samples().items()}

    def panel(axes: Axes) -> None:
        points = axes.scatter(
            data["dual_norm"], data["L"], c=data["step"], s=16, cmap="viridis", alpha=0.8
        )
        positive = data["dual_norm"][data["dual_norm"] > 0]
        reach = np.geomspace(float(positive.min()), float(positive.max()), 200)
        line = f"L0 + L1 x,  L0 = {fit.l0:.3g}, L1 = {fit.l1:.3g}"
        axes.plot(reach, fit.l0 + fit.l1 * reach, color="#d55e00", label=line)
        axes.set(
            xscale="log",
            yscale="log",
            xlabel="dual norm of the mini-batch gradient",
            ylabel="measured smoothness L",
            title=f"{config.task}, {config.describe()}",
        )
        axes.legend(loc="lower right")
        axes.figure.colorbar(points, ax=axes, label="step")

    return render([panel], kind, size=(6.4, 4.4))


def draw_lrs(config: RunConfig, curve: LrCurve, kind: str) -> bytes:
    """The loss against the growing step, with the suggestion."""

    def panel(axes: Axes) -> None:
        curve.plot(axes).set_title(f"{config.task}, {config.model}")

    return render([panel], kind, size=(6.4, 4.0))
