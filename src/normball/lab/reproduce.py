"""The paper's figures: fixed runs and declared claims from a file, and a verdict per claim."""

import json
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from normball.lab.cells import HEADINGS, Cell, check_one_data, make_cells, ordered
from normball.lab.charts import draw
from normball.lab.claims import Claim, Verdict, judge, read_claim
from normball.lab.config import RunConfig, read_step
from normball.lab.errors import LabError, unknown
from normball.lab.halving import next_stage
from normball.lab.optimizers import configure
from normball.lab.rows import Row, RunFolder
from normball.lab.tasks import find_task
from normball.lab.until import FIRST_SEED, Standing

SCALES = ("cpu", "gpu", "paper")
_SCHEMA = "normball.figure/1"
_FIGURE_KEYS = {"title", "published", *SCALES}
_SCALE_KEYS = {"about", "task", "charts", "seeds", "settings", "runs", "claims"}
_MAY_HAVE = {"rungs"}


@dataclass(frozen=True)
class Experiment:
    """A figure at one scale: what it shows, what the paper reports, what is run here instead.

    Attributes:
        charts: keys of ``CHARTS``.
        configs: the runs, of full length.
        rungs: epochs after which the thresholds at each step size are halved; perhaps none.
        claims: what the runs should show.
    """

    name: str
    scale: str
    title: str
    published: str
    about: str
    charts: tuple[str, ...]
    configs: tuple[RunConfig, ...]
    rungs: tuple[int, ...]
    claims: tuple[Claim, ...]

    def stage(self, rows: Iterable[Row]) -> tuple[RunConfig, ...]:
        """The runs that come next, or those of full length that are left after the last rung."""
        return next_stage(self.configs, self.rungs, rows)


def figure_names() -> tuple[str, ...]:
    """The figures that can be repeated, in the paper's order."""
    found = (
        entry.name.removesuffix(".toml")
        for entry in files("normball.lab").joinpath("figures").iterdir()
        if entry.name.endswith(".toml")
    )
    return tuple(sorted(found, key=lambda name: int(name.removeprefix("fig"))))


def load_experiment(name: str, scale: str) -> Experiment:
    """A figure's runs and claims at one of ``SCALES``; a LabError if there is no such figure."""
    if name not in figure_names():
        raise unknown("figure", name, figure_names())
    if scale not in SCALES:
        raise unknown("scale", scale, SCALES)
    text = files("normball.lab").joinpath("figures", f"{name}.toml").read_text(encoding="utf-8")
    return read_experiment(name, scale, tomllib.loads(text))


def read_experiment(name: str, scale: str, values: Mapping[str, Any]) -> Experiment:
    """A figure from its file's content.

    Args:
        values: ``title``, ``published``, and for each scale ``about``, ``task``, ``charts``,
            ``seeds``, ``settings`` of all runs, ``runs`` (an optimizer, its ``lr`` and perhaps
            ``rho``, each a list, and settings of its own), ``claims`` and perhaps ``rungs``. What
            scales have in common may stand beside ``title``.

    Raises:
        LabError: if a key is missing or unknown, or a value not allowed; the message names it.
    """
    where = f"{name}.toml"
    _check_keys(where, values, _FIGURE_KEYS | (_SCALE_KEYS & set(values)))
    part = {k: v for k, v in values.items() if k in _SCALE_KEYS} | values[scale]
    where = f"{where}, [{scale}]"
    _check_keys(where, part, _SCALE_KEYS | (_MAY_HAVE & set(part)))
    task = find_task(part["task"])
    configs = []
    for run in part["runs"]:
        settings = {**part["settings"], **run}
        try:
            optimizer = settings.pop("optimizer")
            steps = [read_step(str(lr)) for lr in settings.pop("lr")]
            rhos = settings.pop("rho", [None])
            configs += [
                configure(task, optimizer, seed=seed, lr=lr, rho=rho, **settings)
                for seed in range(part["seeds"])
                for lr in steps
                for rho in rhos
            ]
        except (KeyError, TypeError, ValueError) as error:
            raise LabError(f"{where}: the runs {run} are not usable ({error}).") from None
    claims = tuple(read_claim(where, claim) for claim in part["claims"])
    return Experiment(
        name,
        scale,
        values["title"],
        values["published"],
        part["about"],
        tuple(part["charts"]),
        # Seeds in the outer loop: if the work is stopped early, whole comparisons are finished.
        tuple(sorted(configs, key=lambda config: config.seed)),
        tuple(part.get("rungs", ())),
        claims,
    )


def _check_keys(where: str, values: Mapping[str, Any], known: set[str]) -> None:
    if odd := sorted(set(values) ^ known):
        raise LabError(f"{where} lacks or does not know {', '.join(odd)}.")


def conclude(
    experiment: Experiment, folder: RunFolder[Row], standings: Sequence[Standing] = ()
) -> tuple[Verdict, ...]:
    """Judge the claims, and write the picture and the verdicts beside the rows.

    Args:
        experiment: the figure; of runs that are not in the folder nothing is said.
        folder: takes ``fig*.png``, ``fig*.svg``, ``fig*.md`` and ``fig*.json``.
        standings: of the claims on fresh seeds; without them the figure's own seeds judge.

    Raises:
        LabError: if no run is there, they were made on different data, or a file cannot be
            written.
    """
    keys = {config.key() for config in experiment.configs}
    rows = [row for row in folder.rows if row.config.key() in keys]
    if not rows:
        raise LabError(f"no run of {experiment.name} was finished in the time: give it more.")
    cells = make_cells(rows)
    check_one_data(cells)
    verdicts = tuple(standing.verdict for standing in standings) or tuple(
        judge(claim, cells) for claim in experiment.claims
    )
    judged = [row for standing in standings for cell in standing.cells for row in cell.rows]
    fresh = make_cells({row.config.key(): row for row in judged}.values())
    for kind in ("png", "svg"):
        picture = draw(experiment.charts, cells, kind, experiment.title)
        folder.replace(f"{experiment.name}.{kind}", picture)
    folder.replace(f"{experiment.name}.json", _record(experiment, verdicts, cells))
    folder.replace(f"{experiment.name}.md", page(experiment, verdicts, cells, fresh).encode())
    return verdicts


def _record(experiment: Experiment, verdicts: Sequence[Verdict], cells: Sequence[Cell]) -> bytes:
    values = {
        "schema": _SCHEMA,
        "figure": experiment.name,
        "scale": experiment.scale,
        "title": experiment.title,
        "verdicts": [
            {"claim": asdict(v.claim), "outcome": v.outcome, "sentence": v.sentence}
            for v in verdicts
        ],
        "data": sorted({row.result.data for cell in cells for row in cell.rows}),
    }
    return json.dumps(values, indent=1, ensure_ascii=False).encode() + b"\n"


def page(
    experiment: Experiment,
    verdicts: Sequence[Verdict],
    cells: Sequence[Cell],
    fresh: Sequence[Cell] = (),
) -> str:
    """The outcome as Markdown: verdicts, picture, and a table of all settings.

    Args:
        fresh: those of them that judged, if they have seeds of their own.
    """
    rows = [row for cell in (*cells, *fresh) for row in cell.rows]
    minutes = sum(row.result.seconds for row in rows) / 60
    data = "; ".join(sorted({row.result.data for row in rows}))
    lines = [
        f"# {experiment.name}, scale {experiment.scale}: {experiment.title}",
        "",
        f"In the paper: {experiment.published}",
        "",
        f"Here: {experiment.about} Data: {data}. {len(rows)} runs, {minutes:.0f} minutes of one "
        f"process in all, {'; '.join(sorted({row.machine for row in rows}))}.",
        "",
        "| claim, declared before the runs | verdict |",
        "|---|---|",
        *(f"| {v.claim.text} | {v.sentence} |" for v in verdicts),
        "",
        f"![{experiment.title}]({experiment.name}.png)",
        "",
        *_table(cells),
    ]
    if fresh:
        lines += [
            f"The runs above chose the settings. These have judged them, with the seeds from "
            f"{FIRST_SEED} on:",
            "",
            *_table(fresh),
        ]
    return "\n".join(lines)


def _table(cells: Sequence[Cell]) -> list[str]:
    return [
        f"| {' | '.join((*HEADINGS, 'seconds a run'))} |",
        "|---|---|---|---|---|---|---|",
        *(_line(cell) for cell in ordered(cells)),
        "",
    ]


def _line(cell: Cell) -> str:
    seconds = sum(row.result.seconds for row in cell.rows) / len(cell.rows)
    return f"| {' | '.join((*cell.words, f'{seconds:.1f}'))} |"


def results_of(folder: Path) -> list[dict[str, Any]]:
    """The verdicts that a folder holds; a LabError if a file ``fig*.json`` is not to be used."""
    found = []
    for path in sorted(folder.glob("fig*.json")):
        try:
            values = json.loads(path.read_bytes())
        except OSError as error:
            raise LabError(f"cannot read {path}: {error.strerror}.") from error
        except ValueError:
            raise LabError(f"{path} is not valid JSON: mend or remove it.") from None
        if isinstance(values, dict) and values.get("schema") == _SCHEMA:
            if not _is_whole(values):
                raise LabError(f"{path} lacks a part of its figure: mend or remove it.")
            found.append(values)
    return found


def _is_whole(values: Mapping[str, Any]) -> bool:
    try:
        texts = [values["figure"], values["scale"], values["title"]]
        for verdict in values["verdicts"]:
            texts += [verdict["claim"]["text"], verdict["outcome"], verdict["sentence"]]
    except (KeyError, TypeError):
        return False
    return all(isinstance(text, str) for text in texts)
