"""The rules that the arena declares before its first run, and their file."""

import json
import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from normball.lab.arena.methods import METHODS
from normball.lab.arena.record import SCHEMA
from normball.lab.arena.tasks import TASKS
from normball.lab.arena.training import POINTS
from normball.lab.errors import LabError
from normball.lab.files import write_whole

PROTOCOL = "protocol.json"
RULE = (
    "For every method and task the same number of settings is run on the choosing seed. The one "
    "with the best final score on the half of the held-out data that is for choosing is taken; "
    "while it is at an edge of the grid, and that may still be extended, one more setting beyond "
    "it is run. The one taken is run on the judging seeds and judged by the final score on the "
    "other half. Network and mini-batches depend on the seed alone, so differences are paired."
)


@dataclass(frozen=True)
class Claim:
    """A statement on a method, judged at the end, task by task, by the test of its kind.

    It must hold on a share of the tasks, rounded up.
    """

    kind: str
    text: str
    method: str
    share: float

    def needed(self, tasks: int) -> int:
        """On how many tasks it must hold."""
        return math.ceil(self.share * tasks - 1e-9)


_OF_TUNED = (
    ("first", "the best mean score, or level with it by the interval, on 7 of 8", 7 / 8),
    ("beats-adamw", "better than tuned AdamW, interval clear of 0, on 6 of 8", 6 / 8),
    ("beats-muon", "better than tuned Muon with AdamW, interval clear of 0, on 4 of 8", 4 / 8),
    ("no-worse-than-muon", "worse than tuned Muon with AdamW, interval clear of 0, on none", 1.0),
)
_OF_UNTUNED = "within 2 % of the loss, or 1 point of accuracy, of the best tuned method on 6 of 8"
CLAIMS = (
    *(Claim(kind, text, "decay", share) for kind, text, share in _OF_TUNED),
    *(Claim(kind, text, "anytime", share) for kind, text, share in _OF_TUNED),
    Claim("near", _OF_UNTUNED, "untuned", 6 / 8),
)


@dataclass(frozen=True)
class Protocol:
    """The rules of one arena.

    Attributes:
        tasks: their names, in the order in which they are run.
        methods: their names.
        settings: how many settings of each method are run at first.
        extensions: by how many more the grid may grow at its edges.
        choose: the seed on which settings are chosen; it is not used to judge.
        judge: the seeds used to judge.
        budget: factor of every task's number of steps.
        level: of the intervals, two-sided.
        claims: what is judged.
    """

    tasks: tuple[str, ...] = tuple(TASKS)
    methods: tuple[str, ...] = tuple(METHODS)
    settings: int = 5
    extensions: int = 3
    choose: int = 100
    judge: tuple[int, ...] = (10, 11, 12, 13, 14)
    budget: float = 1.0
    level: float = 0.95
    claims: tuple[Claim, ...] = CLAIMS

    def grid(self, method: str) -> tuple[float, ...]:
        """The settings of a method that are run at first, rising; one where nothing is tuned."""
        found = METHODS[method]
        if not found.tuned:
            return (found.value(0),)
        return tuple(found.value(place - self.settings // 2) for place in range(self.settings))

    def declaration(self) -> dict[str, Any]:
        """The content of the file: the rules, and full descriptions of tasks, methods and grids."""
        values = {
            "schema": SCHEMA,
            "rule": RULE,
            **asdict(self),
            "points": POINTS,
            "about_tasks": {
                name: {
                    "about": (task := TASKS[name]).about,
                    "steps": max(1, round(self.budget * task.steps)),
                    "unit": task.unit,
                    "near": task.near,
                }
                for name in self.tasks
            },
            "about_methods": {
                name: {"about": METHODS[name].about, "grid": self.grid(name)}
                for name in self.methods
            },
        }
        return json.loads(json.dumps(values))  # type: ignore[no-any-return]


def whole() -> Protocol:
    """The whole arena: about three hours on two cores."""
    return Protocol()


def quick() -> Protocol:
    """Six tasks, all methods, two settings, two seeds, a third of the steps: ten minutes."""
    return Protocol(
        tasks=("digits", "table", "lstm", "resnet", "chars", "words"),
        settings=2,
        extensions=0,
        judge=(0, 1),
        budget=0.35,
    )


def demo() -> Protocol:
    """A first demonstration: methods without tuning, and AdamW with its best step and a decay."""
    near = "within 2 % of the loss, or 1 point of accuracy, of tuned AdamW and of its own best step"
    return Protocol(
        tasks=("digits", "chars"),
        methods=("adamw", "anytime", "untuned"),
        judge=(0, 1, 2),
        claims=(Claim("near", near, "untuned", 1.0),),
    )


def declare(protocol: Protocol, folder: Path) -> None:
    """Write the rules into a folder; a LabError if it has others, or the file is not to be used."""
    path, ours = folder / PROTOCOL, protocol.declaration()
    if not path.exists():
        write_whole(path, json.dumps(ours, indent=1).encode() + b"\n")
        return
    try:
        found = json.loads(path.read_bytes())
        differing = sorted(k for k in ours.keys() | found.keys() if ours.get(k) != found.get(k))
    except (OSError, ValueError, AttributeError) as error:
        raise LabError(f"{path} cannot be read as rules ({error}): choose another --out.") from None
    if differing:
        raise LabError(
            f"{path} declares other rules ({', '.join(differing)}), and rules do not change once "
            "runs are judged by them: choose another --out."
        )


def select(names: str | None, known: Iterable[str], kind: str) -> tuple[str, ...]:
    """Names from a list with commas, all for None, in the order of the rules; else a LabError."""
    every = tuple(known)
    wanted = every if names is None else tuple(name.strip() for name in names.split(","))
    for name in wanted:
        if name not in every:
            raise LabError(f"no {kind} {name!r} in this arena: choose of {', '.join(every)}.")
    return tuple(name for name in every if name in wanted)
