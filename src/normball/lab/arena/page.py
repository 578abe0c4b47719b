"""The arena's page and its summary."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from normball.lab.arena.charts import draw_curves, draw_profile, draw_settings
from normball.lab.arena.judge import (
    GOAL,
    Entry,
    Interval,
    Standing,
    Verdict,
    paired,
    ranks,
    stand,
    time_to_goal,
    verdicts,
)
from normball.lab.arena.methods import METHODS
from normball.lab.arena.protocol import RULE, Protocol
from normball.lab.arena.record import Row
from normball.lab.arena.tasks import TASKS
from normball.lab.files import write_whole
from normball.lab.machine import provenance
from normball.lab.pages import fill

PAGE, SUMMARY = "arena.html", "arena.md"
_RIVALS = ("adamw", "muon")
_CLAIM_TITLES = ("method", "claim", "verdict", "tasks", "not on")


def write_page(protocol: Protocol, rows: Sequence[Row], folder: Path) -> Path:
    """Write the page, the summary, and the pictures for other pages, from the runs so far."""
    content = _content(protocol, rows)
    pictures = {f"{name}.svg": picture for name, picture in content["settings"]}
    if content["profile"] is not None:
        pictures["profile.svg"] = content["profile"]
    for name, picture in pictures.items():
        write_whole(folder / name, picture)
    write_whole(folder / SUMMARY, _summary(content).encode())
    text = fill("arena.html.j2", content)
    return write_whole(folder / PAGE, text.encode())


def _content(protocol: Protocol, rows: Sequence[Row]) -> dict[str, Any]:
    standings = [stand(protocol, rows, name) for name in protocol.tasks]
    begun = [standing for standing in standings if standing.entries]
    times = _times(standings)
    return {
        "rule": RULE,
        "choose": protocol.choose,
        "seeds": ", ".join(map(str, protocol.judge)),
        "level": f"{100 * protocol.level:g}",
        "unfinished": [s.task for s in standings if not s.complete],
        "claim_titles": _CLAIM_TITLES,
        "claims": [_verdict(verdict) for verdict in verdicts(protocol, standings)],
        "ranks": _ranks(standings),
        "profile": draw_profile(times) if times else None,
        "tasks": [_task(protocol, standing) for standing in begun],
        "settings": [(s.task, draw_settings(s)) for s in begun],
        "curves": [(s.task, draw_curves(s)) for s in begun],
        "methods": [(METHODS[name].label, METHODS[name].about) for name in protocol.methods],
        "facts": _facts(rows),
    }


def brief(protocol: Protocol, rows: Sequence[Row]) -> list[str]:
    """The scores of the finished tasks and the verdicts, in a line each."""
    standings = [stand(protocol, rows, name) for name in protocol.tasks]
    lines = []
    for standing in standings:
        if standing.complete:
            scores = (f"{METHODS[m].label} {_number(e.mean)}" for m, e in standing.entries.items())
            lines.append(f"{standing.task}, {TASKS[standing.task].unit}: {'; '.join(scores)}")
    for verdict in verdicts(protocol, standings):
        claim = verdict.claim
        tasks = f"{len(verdict.held)} of {len(verdict.judged)} tasks"
        label = METHODS[claim.method].label
        lines.append(f"{label}: {claim.text}. It {verdict.outcome} ({tasks}).")
    return lines


def _facts(rows: Sequence[Row]) -> dict[str, str]:
    hours = sum(row.result.seconds for row in rows) / 3600
    runs = f"{len(rows)}, {hours:.1f} hours of processor time in training"
    return {"runs": runs, **provenance(rows)}


def _times(standings: Sequence[Standing]) -> dict[str, list[float]]:
    """Steps to the goal on every task that is finished."""
    found: dict[str, list[float]] = {}
    for standing in standings:
        if standing.complete and GOAL in standing.entries:
            for method in standing.entries:
                found.setdefault(method, []).append(time_to_goal(standing, method)[0])
    return found


def _task(protocol: Protocol, standing: Standing) -> dict[str, Any]:
    task = TASKS[standing.task]
    table = [_columns(protocol, standing, entry) for entry in standing.entries.values()]
    looks = ["mark" if METHODS[method].ours else "" for method in standing.entries]
    return {
        "name": task.name,
        "about": task.about,
        "steps": max(1, round(protocol.budget * task.steps)),
        "complete": standing.complete,
        "titles": list(table[0]),
        "lines": [list(columns.values()) for columns in table],
        "looks": looks,
    }


def _columns(protocol: Protocol, standing: Standing, entry: Entry) -> dict[str, str]:
    """What the table of a task has on a method, by the titles of the columns."""
    method, best, unit = METHODS[entry.method], standing.best, TASKS[standing.task].unit
    found = {
        "method": method.label,
        "setting": f"{entry.value:g}" if method.tuned else "-",
        "of how many": f"{len(entry.tried)}{', at the edge' if entry.edge else ''}"
        if method.tuned
        else "none",
        f"score, {unit}": _number(entry.mean),
        "seeds": ", ".join(map(_number, entry.scores)),
    }
    every = [result for other in standing.entries.values() for result in other.results]
    # The first measurement is the score itself.
    for name in list(dict.fromkeys(name for result in every for name in result.scores))[1:]:
        found[name] = _number(entry.other(name))
    rivals = {f"less {METHODS[n].label}": standing.entries.get(n) for n in _RIVALS}
    rivals = {title: rival for title, rival in rivals.items() if rival is not None}
    for title, rival in {**rivals, "less the best tuned": best}.items():
        found[title] = ""
        if rival is not None and rival is not entry:
            found[title] = _interval(paired(entry.scores, rival.scores, protocol.level))
    steps = seconds = math.inf
    if GOAL in standing.entries:
        steps, seconds = time_to_goal(standing, entry.method)
    spent = [result.seconds for result in entry.results]
    return found | {
        "steps to AdamW's": f"{steps:.0f}" if math.isfinite(steps) else "never",
        "seconds to it": f"{seconds:.1f}" if math.isfinite(seconds) else "never",
        "seconds in all": f"{sum(spent) / len(spent):.1f}",
        "state, kB": f"{max(result.state_bytes for result in entry.results) / 1000:.0f}",
    }


def _number(value: float) -> str:
    return f"{value:.4g}" if math.isfinite(value) else "diverged"


def _interval(found: Interval) -> str:
    if not math.isfinite(found.mean):
        return "diverged"
    half = f" ± {found.half:.2g}" if math.isfinite(found.half) else ""
    return f"{found.mean:+.3g}{half}{' *' if found.below or found.above else ''}"


def _ranks(standings: Sequence[Standing]) -> list[tuple[str, str, str]]:
    found = sorted(ranks(standings).items(), key=lambda pair: sum(pair[1]))
    return [
        (METHODS[name].label, f"{sum(own) / len(own):.2f}", ", ".join(f"{x:g}" for x in own))
        for name, own in found
    ]


def _verdict(verdict: Verdict) -> dict[str, Any]:
    claim, judged = verdict.claim, len(verdict.judged)
    words = (
        METHODS[claim.method].label,
        claim.text,
        verdict.outcome,
        f"{len(verdict.held)} of {judged}, {claim.needed(judged)} needed",
        ", ".join(task for task in verdict.judged if task not in verdict.held),
    )
    return {"outcome": verdict.outcome, "words": words}


def _summary(content: dict[str, Any]) -> str:
    """The tables as Markdown."""
    parts = ["# The arena\n", f"{content['rule']}\n"]
    parts.append(f"Choosing seed {content['choose']}, judging seeds {content['seeds']}.\n")
    if content["unfinished"]:
        parts.append(f"Not finished: {', '.join(content['unfinished'])}.\n")
    parts += ["## Claims\n", _table(_CLAIM_TITLES, [v["words"] for v in content["claims"]])]
    parts += ["## Ranks\n", _table(("method", "mean rank", "by task"), content["ranks"])]
    for task in content["tasks"]:
        parts.append(f"## {task['name']}\n\nIn {task['steps']} steps: {task['about']}.\n")
        parts.append(_table(task["titles"], task["lines"]))
    parts.append(
        f"Differences are paired over seeds, with Student's {content['level']} % interval; * marks "
        "those clear of 0. Seconds are processor time of training.\n"
    )
    parts += ["## Methods\n", *(f"- {label}: {about}.\n" for label, about in content["methods"])]
    parts += ["## Facts\n", *(f"- {name}: {text}\n" for name, text in content["facts"].items())]
    return "\n".join(parts)


def _table(titles: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    rule = ["---"] * len(titles)
    return "".join(f"| {' | '.join(line)} |\n" for line in (titles, rule, *lines))
