"""A comparison's report: figures and one page of HTML that needs nothing else."""

import base64
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from normball._style import raised
from normball.lab.config import RunConfig, format_step
from normball.lab.figure import PANELS, Comparison, render
from normball.lab.models import find_model
from normball.lab.optimizers import describe_groups
from normball.lab.pages import fill
from normball.lab.rows import FIGURE_PNG, FIGURE_SVG, REPORT, Row, RunFolder
from normball.lab.summary import CLAIM, Summary, in_words, judge, seed_deviation, summarise, width
from normball.lab.tasks import Task

_POWER = re.compile(r"\^(-?\d+)")
_SETTINGS = ("alpha", "rho", "input_radius", "radius", "output_radius")


def write_report(task: Task, folder: RunFolder) -> Path:
    """Draw the figure and write the page for all rows of a folder.

    Args:
        task: what was trained.
        folder: holds the rows, and takes the files.

    Returns:
        The page's path.

    Raises:
        LabError: if a file cannot be written.
    """
    comparison = Comparison(tuple(folder.rows), summarise(folder.rows))
    folder.replace(FIGURE_PNG, render(PANELS.values(), comparison, "png"))
    folder.replace(FIGURE_SVG, render(PANELS.values(), comparison, "svg"))
    return folder.replace(REPORT, page(task, comparison).encode())


def page(task: Task, comparison: Comparison) -> str:
    """The report as HTML.

    Args:
        task: what was trained.
        comparison: what came out.
    """
    return fill("report.html.j2", _content(task, comparison), typeset=typeset)


def _content(task: Task, comparison: Comparison) -> dict[str, Any]:
    rows, summaries = comparison.rows, comparison.summaries
    return {
        "task": task,
        "claim": CLAIM,
        "verdict": judge(summaries),
        "sentences": [in_words(summary) for summary in summaries],
        "spread": _spread(summaries),
        "deviation": _deviation(summaries),
        "summaries": [_best_line(summary) for summary in summaries],
        "tables": [_step_table(summary) for summary in summaries],
        "panels": [_embedded(panel, comparison) for panel in PANELS.values()],
        "about_model": find_model(rows[0].config.model, text=False).about,
        "settings": [_settings(summary, rows) for summary in summaries],
        "groups": _groups(rows),
        "facts": _facts(rows),
        "runs": len(rows),
        "test_image": 100 / _test_images(task, rows[0].config),
    }


def _test_images(task: Task, config: RunConfig) -> int:
    return sum(len(classes) for _, classes in task.data(config).test_batches())


def _spread(summaries: Sequence[Summary]) -> str | None:
    best = [summary.best.mean for summary in summaries]
    return f"{max(best) - min(best):.1f}" if len(best) > 1 else None


def _deviation(summaries: Sequence[Summary]) -> str | None:
    scatter = seed_deviation(summaries)
    return None if scatter is None else f"{scatter:.1f}"


def _best_line(summary: Summary) -> dict[str, str]:
    good = summary.good
    return {
        "label": summary.label,
        "best": f"{summary.best.mean:.1f}",
        "step": format_step(summary.best.lr),
        "low": format_step(good[0].lr),
        "high": format_step(good[-1].lr),
        "factor": width(summary),
    }


def _step_table(summary: Summary) -> dict[str, Any]:
    good = {step.lr for step in summary.good}
    lines = [
        {
            "step": format_step(step.lr),
            "mean": f"{step.mean:.1f}",
            "seeds": ", ".join(f"{value:.1f}" for value in step.accuracies),
            "clipped": None if step.clipped_share is None else f"{100 * step.clipped_share:.0f}",
            "diverged": step.diverged,
            "good": step.lr in good,
        }
        for step in summary.steps
    ]
    clips = any(line["clipped"] is not None for line in lines)
    return {"label": summary.label, "lines": lines, "clips": clips}


def _embedded(panel: Any, comparison: Comparison) -> str:
    picture = base64.b64encode(render((panel,), comparison, "svg")).decode()
    return f"data:image/svg+xml;base64,{picture}"


def _settings(summary: Summary, rows: Iterable[Row]) -> dict[str, str]:
    config = next(row.config for row in rows if row.config.optimizer == summary.optimizer)
    values = {name: getattr(config, name) for name in _SETTINGS}
    given = [
        f"{name.replace('_', ' ')} {value:g}" for name, value in values.items() if value is not None
    ]
    grid = ", ".join(format_step(step.lr) for step in summary.steps)
    return {"label": summary.label, "options": ", ".join(given), "grid": grid}


def _groups(rows: Iterable[Row]) -> str | None:
    return next(
        (describe_groups(row.config) for row in rows if row.config.radius is not None), None
    )


def _facts(rows: Iterable[Row]) -> dict[str, str]:
    rows = list(rows)
    minutes = sum(row.result.seconds for row in rows) / 60
    packages = {
        ", ".join(f"{name} {number}" for name, number in row.versions.items()): None for row in rows
    }
    return {
        "epochs": _listed({str(row.config.epochs) for row in rows}),
        "batch": _listed({str(row.config.batch_size) for row in rows}),
        "seeds": ", ".join(map(str, sorted({row.config.seed for row in rows}))),
        "machine": _listed({row.machine for row in rows}),
        "versions": _listed(packages),
        "minutes": f"{minutes:.1f}",
    }


def _listed(values: Iterable[str]) -> str:
    return "; ".join(sorted(values))


def typeset(text: str) -> str:
    """A text for print: ``2^-5`` becomes ``2⁻⁵``, and ``%`` stays with its number.

    Args:
        text: any text.
    """
    return _POWER.sub(lambda match: raised(match[1]), text).replace(" %", "\u00a0%")
