"""Claims about runs, declared before the runs, and the verdicts from finished runs."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from normball.lab.cells import Cell, best, best_per_step, of
from normball.lab.config import format_step
from normball.lab.errors import LabError, unknown
from normball.lab.results import RunResult
from normball.lab.rows import Row
from normball.lab.statistics import first_at, reach_of_mean

LEVEL = 0.90


@dataclass(frozen=True)
class Claim:
    """One claim of a figure.

    Attributes:
        kind: a key of ``KINDS``.
        text: the claim in words, its tolerance included.
        ours: the optimizer it is about.
        theirs: the one it is compared with; empty if there is none.
        at_least: what the measured effect must exceed.
        at_most: what it must stay below; None for a one-sided claim.
        factor: of ``keeps`` and ``loses``: the step to compare at, in units of the best step of
            ``theirs``.
        since: of ``grows``: the last tenth of the run is compared with the tenth that ends here, as
            a share of the run from a tenth to 1.
    """

    kind: str
    text: str
    ours: str
    theirs: str = ""
    at_least: float = 0.0
    at_most: float | None = None
    factor: float = 4.0
    since: float = 0.25

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise unknown("kind of claim", self.kind, KINDS)
        if not 0.1 <= self.since <= 1:
            raise LabError(f"since must be a share of the run from 0.1 to 1, got {self.since}.")


@dataclass(frozen=True)
class Finding:
    """What was measured for a claim: the effect for every seed, of which settings, its unit."""

    values: tuple[float, ...]
    about: str
    unit: str


@dataclass(frozen=True)
class Verdict:
    """The outcome of a claim.

    Attributes:
        outcome: ``"holds"``, ``"fails"`` or ``"undecided"``.
        finding: what was measured; None if the runs are not enough to measure it.
        low: lower end of the interval of the mean effect.
        high: its upper end.
        seeds: what the seeds are called.
    """

    claim: Claim
    outcome: str
    finding: Finding | None
    low: float
    high: float
    seeds: str = "seeds"

    @property
    def sentence(self) -> str:
        """The outcome with its figures."""
        if self.finding is None:
            return f"{self.outcome}: the runs that it needs are not there"
        # Rounded far below the effect of one example, so that equal means differ by 0.
        mean, unit = round(_mean(self.finding.values), 9) + 0.0, self.finding.unit
        return (
            f"{self.outcome}: {mean:.3g} {unit} ({LEVEL:.0%} interval {self.low:.3g} to "
            f"{self.high:.3g}, {len(self.finding.values)} {self.seeds}); {self.finding.about}"
        )


def judge(claim: Claim, cells: Sequence[Cell]) -> Verdict:
    """Judge a claim by finished runs.

    The effect is measured once for every seed, between settings chosen by their mean over the
    seeds. A claim holds if Student's interval for the mean effect lies wholly on its side of the
    bound. It fails if the interval lies wholly on the other side. Otherwise it is undecided. The
    bound itself is on neither side.
    """
    kind = KINDS[claim.kind]
    chosen = kind.choose(claim, cells)
    finding = kind.measure(claim, *chosen) if chosen else None
    if finding is None or not finding.values:
        return unmeasured(claim)
    low, high = interval(finding.values)
    return Verdict(claim, outcome(claim, low, high), finding, low, high)


def unmeasured(claim: Claim) -> Verdict:
    """The verdict where the runs are not enough to measure anything."""
    return Verdict(claim, "undecided", None, math.nan, math.nan)


def outcome(claim: Claim, low: float, high: float) -> str:
    """``"holds"``, ``"fails"`` or ``"undecided"``: on which side of the bounds an interval lies."""
    top = math.inf if claim.at_most is None else claim.at_most
    if low > claim.at_least and high < top:
        return "holds"
    if high < claim.at_least or low > top:
        return "fails"
    return "undecided"


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Student's interval for the mean, at ``LEVEL``; infinite for a single value."""
    if any(not math.isfinite(value) for value in values):
        centre = _mean(values)
        return (centre, centre) if not math.isnan(centre) else (-math.inf, math.inf)
    mean, reach = fmean(values), reach_of_mean(values, LEVEL)
    return mean - reach, mean + reach


def _mean(values: Sequence[float]) -> float:
    """The mean; NaN where infinities of both signs meet, which ``fmean`` refuses."""
    return fmean(values) if all(map(math.isfinite, values)) else sum(values) / len(values)


def _gain(ours: Cell, theirs: Cell) -> tuple[float, ...]:
    """How much better one cell is than another, seed by seed."""
    sign = 1 if ours.higher else -1
    one, two = ours.scores, theirs.scores
    return tuple(sign * (one[seed] - two[seed]) for seed in sorted(one.keys() & two.keys()))


def _unit(cell: Cell) -> str:
    return "points of accuracy" if cell.higher else "nats"


def _pair(claim: Claim, cells: Sequence[Cell]) -> tuple[Cell, ...] | None:
    ours, theirs = of(cells, claim.ours), of(cells, claim.theirs)
    return (best(ours), best(theirs)) if ours and theirs else None


def _gain_of_best(_: Claim, ours: Cell, theirs: Cell) -> Finding:
    about = f"{ours.name}: {ours.mean:.4g}; {theirs.name}: {theirs.mean:.4g}"
    return Finding(_gain(ours, theirs), about, _unit(ours))


def _far(claim: Claim, cells: Sequence[Cell], optimizer: str) -> tuple[Cell, ...] | None:
    """An optimizer's best at a large step, and its own best."""
    theirs = of(cells, claim.theirs)
    steps = best_per_step(of(cells, optimizer))
    if not (theirs and steps):
        return None
    large = claim.factor * best(theirs).lr
    far = next((cell for cell in steps if cell.lr >= large), None)
    return None if far is None else (far, best(steps))


def _lost(_: Claim, far: Cell, own: Cell) -> Finding:
    about = f"{far.name}: {far.mean:.4g}; its best, at {format_step(own.lr)}: {own.mean:.4g}"
    return Finding(_gain(own, far), about, _unit(own))


def _steps_saved(_: Claim, ours: Cell, theirs: Cell) -> Finding:
    others = {row.config.seed: row.result for row in theirs.rows}
    saved = tuple(
        share_saved(row.result, others[row.config.seed], higher=ours.higher)
        for row in ours.rows
        if row.config.seed in others
    )
    about = f"{ours.name}, beside {theirs.name}, until both are as good as the worse one at its end"
    return Finding(saved, about, "of the slower one's steps saved")


def share_saved(ours: RunResult, theirs: RunResult, *, higher: bool) -> float:
    """Steps that one run saves on its way to the worse of two final scores.

    Both reach that score, so every pair of runs has a value: ``(t2 - t1) / max(t1, t2)``, in
    [-1, 1], with the times ``t1`` and ``t2`` of ours and theirs. Exchanging the two only changes
    the sign. A run that diverged never reaches a score.
    """
    sound = [run for run in (ours, theirs) if not run.diverged and math.isfinite(run.score)]
    if len(sound) < 2:
        return float(ours in sound) - float(theirs in sound)
    goal, sign = (min if higher else max)(ours.score, theirs.score), -1 if higher else 1
    mine, yours = (first_at(enumerate(run.scores, 1), goal, sign) for run in (ours, theirs))
    return (yours - mine) / max(mine, yours)


def _with_gaps(claim: Claim, cells: Sequence[Cell]) -> tuple[Cell, ...] | None:
    ours = [cell for cell in of(cells, claim.ours) if all(_gaps(row) for row in cell.rows)]
    return (best(ours),) if ours else None


def _gaps(row: Row) -> list[float]:
    """The gap <d, w> along a run; empty if it was not recorded, or too rarely."""
    trace = row.result.trace
    return trace if row.result.trace_name == "gap" and len(trace) >= 10 else []


def _grows(claim: Claim, ours: Cell) -> Finding:
    """How many times as large the gap is over the last tenth of a run as earlier."""
    ratios = tuple(_growth(_gaps(row), claim.since) for row in ours.rows)
    return Finding(ratios, ours.name, "times the gap of then")


def _growth(gaps: Sequence[float], since: float) -> float:
    if not gaps:
        return math.nan
    tenth, upto = len(gaps) // 10, round(since * len(gaps))
    early = fmean(gaps[upto - tenth : upto])
    return fmean(gaps[-tenth:]) / early if early > 0 else math.nan


def _middle_and_end(claim: Claim, cells: Sequence[Cell]) -> tuple[Cell, ...] | None:
    """The best middle threshold and the better of both ends, each at any step."""
    ours = of(cells, claim.ours)
    thresholds = sorted({cell.rho for cell in ours if cell.rho is not None})
    if len(thresholds) < 3:
        return None
    per = [best([cell for cell in ours if cell.rho == rho]) for rho in thresholds]
    return best(per[1:-1]), best([per[0], per[-1]])


@dataclass(frozen=True)
class Kind:
    """How a kind of claim is judged.

    ``choose`` has the settings that a claim is about, from runs over a grid; None if some are
    missing. ``measure`` has the finding, from runs of these settings.
    """

    choose: Callable[[Claim, Sequence[Cell]], tuple[Cell, ...] | None]
    measure: Callable[..., Finding]


KINDS: Mapping[str, Kind] = {
    "gain-of-best": Kind(_pair, _gain_of_best),
    "keeps": Kind(lambda claim, cells: _far(claim, cells, claim.ours), _lost),
    "loses": Kind(lambda claim, cells: _far(claim, cells, claim.theirs), _lost),
    "steps-saved": Kind(_pair, _steps_saved),
    "grows": Kind(_with_gaps, _grows),
    "middle-wins": Kind(_middle_and_end, _gain_of_best),
}


def read_claim(where: str, values: Mapping[str, Any]) -> Claim:
    """A claim from a figure's file; a LabError, which names the place, if a field is wrong."""
    try:
        return Claim(**values)
    except TypeError as error:
        raise LabError(f"{where}: a claim is not one ({error}).") from None
