"""One page about a folder of results: verdicts, pictures, tables, versions and machines."""

import base64
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from normball.lab.cells import HEADINGS, best, make_cells, of
from normball.lab.charts import draw
from normball.lab.errors import LabError
from normball.lab.files import write_whole
from normball.lab.optimizers import OPTIMIZERS
from normball.lab.pages import fill
from normball.lab.race import TITLES, lines, race
from normball.lab.reproduce import results_of
from normball.lab.rows import ROW_START, ROWS, Row, read_rows
from normball.lab.tasks import find_task

_KINDS = {".png": "image/png", ".svg": "image/svg+xml"}
# Settings that may differ within one table; runs that differ in others get separate tables.
_WITHIN = {"optimizer", "lr", "rho", "seed", "alpha", "variant", "weight_decay"}
_RADII = {"input_radius", "radius", "output_radius"}


def write_book(results: Path, out: Path) -> Path:
    """Write the page.

    Args:
        results: a folder whose folders hold rows, figures, or a README and pictures.
        out: the page's path.

    Returns:
        The same path.

    Raises:
        LabError: if there is nothing to report, a record is not readable, or the page cannot be
            written.
    """
    if not results.is_dir():
        raise LabError(f"{results} is no folder: name the one that holds the results.")
    sections = [section for path in _folders(results) if (section := _section(results, path))]
    if not sections:
        raise LabError(f"{results} holds neither {ROWS} nor README.md in any of its folders.")
    text = fill("book.html.j2", {"sections": sections})
    return write_whole(out, text.encode())


def _folders(results: Path) -> list[Path]:
    inside = sorted(path for path in results.rglob("*") if path.is_dir())
    return [results, *(path for path in inside if not path.name.startswith("."))]


def _section(results: Path, folder: Path) -> dict[str, Any] | None:
    record, readme = folder / ROWS, folder / "README.md"
    figures = [
        {**values, "picture": _embedded(folder / f"{values['figure']}.svg")}
        for values in results_of(folder)
    ]
    rows = read_rows(record) if _is_ours(record) else []
    text = readme.read_text(encoding="utf-8", errors="replace") if readme.is_file() else ""
    known = {f"{figure['figure']}{kind}" for figure in figures for kind in _KINDS}
    pictures = [
        {"name": path.name, "source": _embedded(path)}
        for path in sorted(folder.iterdir())
        if path.suffix in _KINDS and path.is_file()
        if path.name not in known and not _has_twin(path)
    ]
    if not (figures or rows or text or pictures):
        return None
    return {
        "name": str(folder.relative_to(results)) if folder != results else folder.name,
        "text": text,
        "figures": figures,
        "pictures": pictures,
        "tables": [_table(group) for group in _groups(rows)],
        "facts": _facts(rows),
    }


def _is_ours(record: Path) -> bool:
    """Whether a file of rows is one of training runs; benchmarks have rows of their own."""
    if not record.is_file():
        return False
    with record.open("rb") as file:
        return file.read(len(ROW_START)) == ROW_START


def _has_twin(path: Path) -> bool:
    return path.suffix == ".png" and path.with_suffix(".svg").exists()


def _embedded(path: Path) -> str:
    if not path.is_file():
        return ""
    return f"data:{_KINDS[path.suffix]};base64,{base64.b64encode(path.read_bytes()).decode()}"


def _groups(rows: Iterable[Row]) -> list[list[Row]]:
    groups: dict[str, list[Row]] = {}
    for row in rows:
        settings = {k: v for k, v in asdict(row.config).items() if k not in _WITHIN | _RADII}
        # An optimizer without norms has no such setting, and belongs to every table.
        settings["constrained"] = bool(settings["constrained"])
        groups.setdefault(repr(settings), []).append(row)
    return list(groups.values())


def _table(rows: Sequence[Row]) -> dict[str, Any]:
    cells = make_cells(rows)
    config = rows[0].config
    picture = base64.b64encode(draw(["by-step", "over-time"], cells, "svg")).decode()
    words = [
        find_task(config.task).title,
        f"network {config.model}" + (f" times {config.width:g}" if config.width != 1 else ""),
        f"{config.epochs} epochs",
        f"batch {config.batch_size}",
        f"{config.schedule} steps",
    ]
    if any(row.config.constrained for row in rows):
        words.append("in the norm ball")
    if config.train_size:
        words.append(f"{config.train_size:,} training examples")
    found = race(cells)
    winners = {id(best(of(cells, name))) for name in OPTIMIZERS if of(cells, name)}
    return {
        "title": ", ".join(words),
        "picture": f"data:image/svg+xml;base64,{picture}",
        "headings": HEADINGS,
        "lines": [{"words": cell.words, "marked": id(cell) in winners} for cell in cells],
        "race": None
        if found is None
        else {"goal": f"{found.goal:.4g}", "titles": TITLES, "lines": lines(found)},
    }


def _facts(rows: Sequence[Row]) -> dict[str, str]:
    if not rows:
        return {}
    packages = {", ".join(f"{k} {v}" for k, v in row.versions.items()) for row in rows}
    return {
        "runs": f"{len(rows)}, {sum(row.result.seconds for row in rows) / 60:.0f} minutes in all",
        "data": "; ".join(sorted({row.result.data or row.config.task for row in rows})),
        "machine": "; ".join(sorted({row.machine for row in rows})),
        "versions": "; ".join(sorted(packages)),
        "commit": "; ".join(sorted({row.commit or "not recorded" for row in rows})),
    }
