"""The smoothness of a training run: measured pairs, a fitted line, a picture."""

import io
import json
from dataclasses import asdict
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from normball import SmoothnessProbe
from normball.lab.config import RunConfig
from normball.lab.errors import LabError
from normball.lab.figure import STYLE
from normball.lab.machine import describe_machine, versions
from normball.lab.results import RunResult
from normball.optim.probe import Fit


def fit_run(probe: SmoothnessProbe) -> Fit:
    """The line through what a run has measured.

    Args:
        probe: of the run.

    Raises:
        LabError: if there is too little to fit.
    """
    try:
        return probe.fit()
    except ValueError as error:
        raise LabError(f"{error}: train longer, or measure more often with --every.") from None


def record(config: RunConfig, result: RunResult, probe: SmoothnessProbe, fit: Fit) -> bytes:
    """Everything measured, as JSON; numbers that are not finite become null.

    Args:
        config: the run's settings.
        result: what came out of it.
        probe: what it measured.
        fit: from ``fit_run``.
    """
    data = probe.samples()
    values: dict[str, Any] = {
        "schema": "normball.smoothness/2",
        "config": asdict(config),
        "score": result.score,
        "fit": asdict(fit),
        "suggestion": {"lr": config.lr, "rho": fit.rho(config.lr)},
        "versions": versions(),
        "machine": describe_machine(),
        "samples": {
            name: np.where(np.isfinite(v.numpy()), v.numpy(), np.nan).tolist()
            for name, v in data.items()
        },
    }
    text = json.dumps(values).replace("NaN", "null")
    return text.encode() + b"\n"


def draw(config: RunConfig, probe: SmoothnessProbe, fit: Fit, kind: str) -> bytes:
    """The scatter of measured smoothness against the dual norm, with the fitted line.

    Args:
        config: the run's settings, for the title.
        probe: what it measured.
        fit: from ``fit_run``.
        kind: ``"png"`` or ``"svg"``.
    """
    data = {name: value.numpy() for name, value in probe.samples().items()}
    with mpl.rc_context(STYLE):  # type: ignore[arg-type]
        figure = Figure(figsize=(6.4, 4.4), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots()
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
        figure.colorbar(points, label="step")
        target = io.BytesIO()
        figure.savefig(
            target, format=kind, dpi=140, metadata={"Date": None} if kind == "svg" else None
        )
        return target.getvalue()
