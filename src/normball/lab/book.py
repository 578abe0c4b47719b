"""One page about a folder of results: verdicts, pictures, tables, versions and machines."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from normball.lab.cells import make_cells, ordered
from normball.lab.errors import LabError
from normball.lab.files import write_whole
from normball.lab.pages import embedded, fill
from normball.lab.report import facts, overview, training
from normball.lab.reproduce import results_of
from normball.lab.rows import FIGURE_PNG, FIGURE_SVG, ROW_START, ROWS, Row, read_rows
from normball.lab.tasks import find_task

_KINDS = {".png": "png", ".svg": "svg+xml"}
# Settings that may differ within one table; runs that differ in others get separate tables.
_WITHIN = {"optimizer", "lr", "rho", "seed", "schedule", "alpha", "variant", "weight_decay"}
_RADII = {"input_radius", "radius", "output_radius"}


def write_book(results: Path, out: Path) -> Path:
    """Write the page.

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
    if rows:  # it is drawn anew
        known |= {FIGURE_SVG, FIGURE_PNG}
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
        "facts": facts(rows) if rows else {},
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
    return embedded(path.read_bytes(), _KINDS[path.suffix])


def _groups(rows: Iterable[Row]) -> list[list[Row]]:
    groups: dict[str, list[Row]] = {}
    for row in rows:
        settings = {k: v for k, v in asdict(row.config).items() if k not in _WITHIN | _RADII}
        # An optimizer without norms has no such setting, and belongs to every table.
        settings["constrained"] = bool(settings["constrained"])
        groups.setdefault(repr(settings), []).append(row)
    return list(groups.values())


def _table(rows: Sequence[Row]) -> dict[str, Any]:
    cells = ordered(make_cells(rows))
    title = f"{find_task(rows[0].config.task).title}, {training(cells)}"
    return {"title": title, **overview(cells)}
