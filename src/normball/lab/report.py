"""A sweep's report: a picture, and one page of HTML that needs nothing else."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from normball.lab.cells import (
    BEST,
    HEADINGS,
    NEAR_ACCURACY,
    NEAR_LOSS,
    Cell,
    best_lines,
    good_steps,
    lines_of,
    make_cells,
    names_of,
    of,
    ordered,
    seed_deviation,
)
from normball.lab.charts import View, draw, draw_one, views
from normball.lab.errors import LabError
from normball.lab.machine import provenance
from normball.lab.models import find_model
from normball.lab.optimizers import OPTIMIZERS, describe_groups
from normball.lab.pages import fill
from normball.lab.race import TITLES, lines, race
from normball.lab.rows import FIGURE_PNG, FIGURE_SVG, REPORT, Row, RunFolder
from normball.lab.tasks import find_task

_PICTURE = ("by-step", "over-time")
_ABOUT = {
    "by-step": "Score against step size, a line for each optimizer",
    "over-time": "Score after every epoch, each optimizer at its best settings",
    "by-rho": "Score of Clipped Scion against the threshold, a line for each step size",
    "heat": "Score of Clipped Scion by step size and threshold",
}


def write_report(folder: RunFolder[Row]) -> Path:
    """Draw the picture and write the page for all rows of a folder.

    Args:
        folder: holds the rows, at least one and all of one task, and takes the files.
    """
    cells = ordered(make_cells(folder.rows))
    title = find_task(cells[0].rows[0].config.task).title
    folder.replace(FIGURE_PNG, draw(_PICTURE, cells, "png", title))
    folder.replace(FIGURE_SVG, draw(_PICTURE, cells, "svg", title))
    return folder.replace(REPORT, page(folder.rows).encode())


def page(rows: Iterable[Row]) -> str:
    """The report as HTML; the order of the rows does not matter."""
    cells = ordered(make_cells(rows))
    config, higher = cells[0].rows[0].config, cells[0].higher
    task = find_task(config.task)
    count = config.test_size or task.test_size
    content = {
        "task": task,
        "axis": "The axis is logarithmic in the error." if higher else "High losses are cut off.",
        "near": f"{NEAR_ACCURACY:g} point" if higher else f"{NEAR_LOSS:g} nats",
        "example": f"{100 / count:.2g}" if higher and count else "",
        "thresholds": _thresholds(cells),
        "facts": _settings(cells) | facts([row for cell in cells for row in cell.rows]),
        "groups": _groups(cells),
    }
    return fill("report.html.j2", content | overview(cells))


def overview(cells: Sequence[Cell]) -> dict[str, Any]:
    """Pictures of all schedules, and tables of each, for the template ``tables.html.j2``."""
    shown = views(cells)
    return {
        "panels": [_panel(name, view) for name in _PICTURE for view in shown],
        "parts": [_part(view) for view in shown],
    }


def _panel(name: str, view: View) -> dict[str, Any]:
    about = f"{_ABOUT[name]}; {view.steps}. The figures are in the tables."
    return {"picture": draw_one(name, view), "about": about}


def _thresholds(cells: Sequence[Cell]) -> list[dict[str, Any]]:
    several = [
        view
        for view in views(cells)
        if len({cell.rho for cell in of(view.cells, "clipped-scion")}) > 1
    ]
    return [_panel(name, view) for view in several for name in ("by-rho", "heat")]


def _part(view: View) -> dict[str, Any]:
    cells, found, deviation = view.cells, race(view.cells), seed_deviation(view.cells)
    winners = {id(cell) for cell in view.best}
    good = {id(cell) for line in lines_of(cells).values() for cell in good_steps(line)}
    looks = [
        " ".join(look for look, ids in (("best", winners), ("mark", good)) if id(cell) in ids)
        for cell in cells
    ]
    return {
        "steps": view.steps,
        "best": {"titles": BEST, "lines": best_lines(cells)},
        "race": found and {"goal": f"{found.goal:.4g}", "titles": TITLES, "lines": lines(found)},
        "all": {"titles": HEADINGS, "lines": [cell.words for cell in cells], "looks": looks},
        "deviation": None if deviation is None else f"{deviation:.2g}",
    }


def _settings(cells: Sequence[Cell]) -> dict[str, str]:
    """The task's and the optimizers' settings; of those that differ, all values."""
    config = cells[0].rows[0].config
    task = find_task(config.task)
    found = {
        "task": task.about_data,
        "network": find_model(config.model, text=not task.shape.size).about,
        "training": training(cells),
    }
    for name in names_of(cells):
        own, spec = [asdict(cell.rows[0].config) for cell in of(cells, name)], OPTIMIZERS[name]
        values = {key: sorted({one[key] for one in own if one[key]}) for key in spec.options}
        found[spec.label] = ", ".join(
            f"{key.replace('_', ' ')} {', '.join(f'{value:g}' for value in each)}"
            for key, each in values.items()
            if each
        )
    return {name: value for name, value in found.items() if value}


def training(cells: Sequence[Cell]) -> str:
    """What all runs share, in a few words.

    Args:
        cells: at least one; they differ in settings of optimizers, schedule and seed only.
    """
    config = cells[0].rows[0].config
    words = [
        f"network {config.model}" + (f" times {config.width:g}" if config.width != 1 else ""),
        f"{config.epochs} epochs",
        f"batch {config.batch_size}",
    ]
    if config.warmup:
        words.append(f"warm-up {config.warmup:g}")
    if config.precision != "float32":
        words.append(config.precision)
    if any(cell.rows[0].config.constrained for cell in cells):
        words.append("in the norm ball")
    if config.train_size:
        words.append(f"{config.train_size:,} training examples")
    return ", ".join(words)


def facts(rows: Sequence[Row]) -> dict[str, str]:
    """Where the runs were made, and with what."""
    minutes = math.fsum(row.result.seconds for row in rows) / 60
    seeds = ", ".join(map(str, sorted({row.config.seed for row in rows})))
    return {
        "runs": f"{len(rows)}, seeds {seeds}; {minutes:.1f} minutes in all",
        "data": "; ".join(sorted({row.result.data or row.config.task for row in rows})),
        **provenance(rows),
    }


def _groups(cells: Sequence[Cell]) -> str:
    """The table of the Scions' norms; empty without a Scion, or without the text that it is of."""
    configs = [cell.rows[0].config for cell in cells if cell.rows[0].config.radius is not None]
    try:
        return describe_groups(configs[0]) if configs else ""
    except LabError:
        return ""
