"""Verdicts of the arena: paired intervals, ranks, a performance profile, and times to a goal."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from scipy import stats  # type: ignore[import-untyped]

from normball.lab.arena.choose import chosen, pending, tried
from normball.lab.arena.methods import METHODS
from normball.lab.arena.protocol import Claim, Protocol
from normball.lab.arena.record import Result, Row
from normball.lab.arena.tasks import TASKS
from normball.lab.statistics import first_at, reach_of_mean

GOAL = "adamw"
_MUON = "muon"


@dataclass(frozen=True)
class Interval:
    """A mean difference over seeds, and half the width of its interval: infinite for one seed."""

    mean: float
    half: float

    @property
    def below(self) -> bool:
        """Whether the whole interval is below 0."""
        return self.mean + self.half < 0

    @property
    def above(self) -> bool:
        """Whether the whole interval is above 0."""
        return self.mean - self.half > 0


def paired(ours: Sequence[float], theirs: Sequence[float], level: float) -> Interval:
    """Student's interval of the mean of ``ours - theirs``, seed by seed.

    Args:
        theirs: the same for the other method, with the same seeds. An infinite score is a run that
            diverged: the interval is then wholly on one side, or undefined if both have such runs.
        level: of the interval, two-sided.
    """
    lost, won = (not all(map(math.isfinite, side)) for side in (ours, theirs))
    if lost and won:
        return Interval(0.0, math.inf)
    if lost or won:
        return Interval(math.inf if lost else -math.inf, 0.0)
    differences = [a - b for a, b in zip(ours, theirs, strict=True)]
    return Interval(fmean(differences), reach_of_mean(differences, level))


@dataclass(frozen=True)
class Entry:
    """A method on a task, on the judging seeds.

    Attributes:
        method: its name.
        value: the setting that was chosen.
        tried: scores on the choosing seed and half by setting, rising; empty if none was chosen.
        results: one for each seed, in the protocol's order.
    """

    method: str
    value: float
    tried: Mapping[float, float]
    results: tuple[Result, ...]

    @property
    def edge(self) -> bool:
        """Whether the chosen setting is at an edge of those that were run."""
        settings = list(self.tried)
        return len(settings) > 1 and self.value in (settings[0], settings[-1])

    @property
    def scores(self) -> list[float]:
        """Final scores."""
        return [result.score for result in self.results]

    @property
    def mean(self) -> float:
        """Mean final score."""
        return fmean(self.scores)

    def other(self, name: str) -> float:
        """The mean of another measurement; NaN where a run has none."""
        return fmean(result.scores.get(name, math.nan) for result in self.results)


@dataclass(frozen=True)
class Standing:
    """The ranking of the methods on a task: entries by method, the best mean score first.

    It is complete if every method of the protocol is among them.
    """

    task: str
    entries: Mapping[str, Entry]
    complete: bool

    @property
    def best(self) -> Entry | None:
        """The tuned method with the best mean score."""
        return next((e for e in self.entries.values() if METHODS[e.method].tuned), None)


def stand(protocol: Protocol, rows: Sequence[Row], task: str) -> Standing:
    """The ranking of the methods on a task; methods with missing runs are left out."""
    found = []
    for method in protocol.methods:
        own = [row for row in rows if (row.run.task, row.run.method) == (task, method)]
        value = chosen(protocol, own, task, method)
        if value is None or pending(protocol, own, task, method):
            continue
        settings = tried(protocol, own, task, method)
        by_seed = {row.run.seed: row.result for row in own if row.run.value == value}
        results = tuple(by_seed[seed] for seed in protocol.judge)
        found.append(Entry(method, value, settings, results))
    found.sort(key=lambda entry: entry.mean)
    complete = len(found) == len(protocol.methods)
    return Standing(task, {entry.method: entry for entry in found}, complete)


def against(standing: Standing, ours: str, theirs: str, level: float) -> Interval:
    """The paired interval of two methods on a task."""
    entries = standing.entries
    return paired(entries[ours].scores, entries[theirs].scores, level)


def reach(result: Result, goal: float) -> tuple[float, float]:
    """Steps and seconds until a curve reaches a goal, linear between its points.

    Returns:
        Infinite if it never does; those of the first point if it is at the goal already.
    """
    steps = first_at(result.curve, goal)
    return steps, steps if math.isinf(steps) else result.seconds * steps / result.steps


def time_to_goal(standing: Standing, method: str) -> tuple[float, float]:
    """Mean steps and seconds to AdamW's tuned final score on the same seed.

    Both are infinite where it is not reached on every seed.
    """
    pairs = zip(standing.entries[method].results, standing.entries[GOAL].results, strict=True)
    times = [
        reach(result, other.curve[-1][1]) if other.curve else (math.inf, math.inf)
        for result, other in pairs
    ]
    return fmean(steps for steps, _ in times), fmean(seconds for _, seconds in times)


def ranks(standings: Sequence[Standing]) -> dict[str, list[float]]:
    """Every method's ranks, 1 for the best mean score, on the tasks whose ranking is complete.

    Equal scores share the mean of their ranks.
    """
    found: dict[str, list[float]] = {}
    for standing in standings:
        if standing.complete:
            means = {method: entry.mean for method, entry in standing.entries.items()}
            for method, place in zip(means, stats.rankdata(list(means.values())), strict=True):
                found.setdefault(method, []).append(float(place))
    return found


def profile(times: Mapping[str, Sequence[float]]) -> dict[str, list[tuple[float, float]]]:
    """A performance profile: the share of tasks on which a method is within a factor of the best.

    Args:
        times: of every method, one for each task, infinite where the goal is not reached.

    Returns:
        For every method the corners ``(factor, share)``, rising; none where it reaches no goal.
    """
    best = [min(column) for column in zip(*times.values(), strict=True)]
    found = {}
    for method, own in times.items():
        factors = sorted(a / b for a, b in zip(own, best, strict=True) if math.isfinite(a))
        found[method] = [(factor, (i + 1) / len(best)) for i, factor in enumerate(factors)]
    return found


@dataclass(frozen=True)
class Verdict:
    """The tasks on which a claim could be judged, and those on which it holds."""

    claim: Claim
    held: tuple[str, ...]
    judged: tuple[str, ...]

    @property
    def outcome(self) -> str:
        """``"holds"`` or ``"fails"``, or ``"undecided"`` where nothing could be judged."""
        if not self.judged:
            return "undecided"
        return "holds" if len(self.held) >= self.claim.needed(len(self.judged)) else "fails"


def verdicts(protocol: Protocol, standings: Sequence[Standing]) -> list[Verdict]:
    """Every claim of the protocol, on the tasks whose ranking is complete."""
    judged = [standing for standing in standings if standing.complete]
    names = tuple(standing.task for standing in judged)
    found = []
    for claim in protocol.claims:
        rival, test = TESTS[claim.kind]
        if {claim.method, rival or claim.method} <= set(protocol.methods):
            held = tuple(s.task for s in judged if test(s, s.entries[claim.method], protocol.level))
            found.append(Verdict(claim, held, names))
    return found


def _is_first(standing: Standing, entry: Entry, level: float) -> bool:
    best = standing.best
    return best is None or entry is best or not paired(entry.scores, best.scores, level).above


def _is_near(standing: Standing, entry: Entry, _: float) -> bool:
    best, task = standing.best, TASKS[standing.task]
    if best is None:
        return False
    return entry.mean <= (best.mean + task.near if task.points else best.mean * (1 + task.near))


def _beside(rival: str, test: Callable[[Interval], bool]) -> Callable[..., bool]:
    return lambda standing, entry, level: test(against(standing, entry.method, rival, level))


# The method to compare with, if there is one, and the test.
TESTS: Mapping[str, tuple[str | None, Callable[[Standing, Entry, float], bool]]] = {
    "first": (None, _is_first),
    "beats-adamw": (GOAL, _beside(GOAL, lambda found: found.below)),
    "beats-muon": (_MUON, _beside(_MUON, lambda found: found.below)),
    "no-worse-than-muon": (_MUON, _beside(_MUON, lambda found: not found.above)),
    "near": (None, _is_near),
}
