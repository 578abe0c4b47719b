"""Claims about runs, declared before the runs, and the verdicts from finished runs."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from types import MappingProxyType
from typing import Any

from scipy.stats import t as student  # type: ignore[import-untyped]

from normball.lab.cells import Cell, best, best_per_step, epochs_to, of
from normball.lab.config import format_step
from normball.lab.errors import LabError, unknown
from normball.lab.results import RunResult

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
    """What was measured for a claim, one effect for every seed.

    Attributes:
        values: the effect for every seed.
        about: the settings that were compared.
        unit: of the effect.
    """

    values: tuple[float, ...]
    about: str
    unit: str


@dataclass(frozen=True)
class Verdict:
    """The outcome of a claim.

    Attributes:
        claim: the claim.
        outcome: ``"holds"``, ``"fails"`` or ``"undecided"``.
        finding: what was measured; None if the runs are not enough to measure it.
        low: lower end of the interval of the mean effect.
        high: its upper end.
        seeds: from which seed on they judge settings that other seeds have chosen; None if the same
            seeds did both.
    """

    claim: Claim
    outcome: str
    finding: Finding | None
    low: float
    high: float
    seeds: int | None = None

    @property
    def sentence(self) -> str:
        """The outcome with its figures."""
        if self.finding is None:
            return f"{self.outcome}: the runs that it needs are not there"
        # Rounded far below the effect of one example, so that equal means differ by 0.
        mean, unit = round(fmean(self.finding.values), 9) + 0.0, self.finding.unit
        fresh = "" if self.seeds is None else f" from {self.seeds} on, valid at every look"
        return (
            f"{self.outcome}: {mean:.3g} {unit} ({LEVEL:.0%} interval {self.low:.3g} to "
            f"{self.high:.3g}, {len(self.finding.values)} seeds{fresh}); {self.finding.about}"
        )


def judge(claim: Claim, cells: Sequence[Cell]) -> Verdict:
    """Judge a claim by finished runs.

    The effect is measured once for every seed, between settings chosen by their mean over the
    seeds. A claim holds if Student's interval for the mean effect lies wholly on its side of the
    bound. It fails if the interval lies wholly on the other side. Otherwise it is undecided. The
    bound itself is on neither side.

    Args:
        claim: the claim.
        cells: from ``make_cells``.
    """
    chosen = choose(claim, cells)
    return weigh(claim, None if chosen is None else measure(claim, chosen))


def choose(claim: Claim, cells: Sequence[Cell]) -> tuple[Cell, ...] | None:
    """The settings that a claim compares, chosen by their means; None if too few were run.

    Args:
        claim: the claim.
        cells: from ``make_cells``.
    """
    return KINDS[claim.kind][0](claim, cells)


def measure(claim: Claim, chosen: Sequence[Cell]) -> Finding:
    """The effect of settings, seed by seed.

    Args:
        claim: the claim.
        chosen: the settings in the order of ``choose``, with the runs that are to be measured.
    """
    return KINDS[claim.kind][1](claim, chosen)


def weigh(claim: Claim, finding: Finding | None, level: float = LEVEL) -> Verdict:
    """The verdict on a claim, from what was measured.

    Args:
        claim: the claim.
        finding: None if the runs are not enough.
        level: of the interval.
    """
    if finding is None or not finding.values:
        return Verdict(claim, "undecided", None, math.nan, math.nan)
    low, high = interval(finding.values, level)
    top = math.inf if claim.at_most is None else claim.at_most
    if low > claim.at_least and high < top:
        outcome = "holds"
    elif high < claim.at_least or low > top:
        outcome = "fails"
    else:
        outcome = "undecided"
    return Verdict(claim, outcome, finding, low, high)


def interval(values: Sequence[float], level: float = LEVEL) -> tuple[float, float]:
    """Student's interval for the mean; infinite for a single value.

    Args:
        values: at least one.
        level: of the interval, two-sided.
    """
    if any(not math.isfinite(value) for value in values):
        centre = fmean(values)
        return (centre, centre) if not math.isnan(centre) else (-math.inf, math.inf)
    if len(values) == 1:
        return -math.inf, math.inf
    reach = student.ppf((1 + level) / 2, len(values) - 1) * stdev(values) / math.sqrt(len(values))
    return fmean(values) - float(reach), fmean(values) + float(reach)


def _gain(ours: Cell, theirs: Cell) -> tuple[float, ...]:
    """How much better one cell is than another, seed by seed."""
    sign = 1 if ours.higher else -1
    one, two = ours.scores, theirs.scores
    return tuple(sign * (one[seed] - two[seed]) for seed in sorted(one.keys() & two.keys()))


def _unit(cell: Cell) -> str:
    return "points of accuracy" if cell.higher else "nats"


def _pair(claim: Claim, cells: Sequence[Cell]) -> tuple[Cell, Cell] | None:
    ours, theirs = of(cells, claim.ours), of(cells, claim.theirs)
    return (best(ours), best(theirs)) if ours and theirs else None


def _gain_of_best(claim: Claim, chosen: Sequence[Cell]) -> Finding:  # noqa: ARG001
    ours, theirs = chosen
    about = f"{ours.name}: {ours.mean:.4g}; {theirs.name}: {theirs.mean:.4g}"
    return Finding(_gain(ours, theirs), about, _unit(ours))


def _far(claim: Claim, cells: Sequence[Cell], optimizer: str) -> tuple[Cell, ...] | None:
    """An optimizer's best, its best at a large step, and the best of the other one."""
    pair = _pair(claim, cells)
    if pair is None:
        return None
    steps = best_per_step(of(cells, optimizer))
    far = next((cell for cell in steps if cell.lr >= claim.factor * pair[1].lr), None)
    return None if far is None else (best(steps), far, pair[1])


def _our_far(claim: Claim, cells: Sequence[Cell]) -> tuple[Cell, ...] | None:
    return _far(claim, cells, claim.ours)


def _their_far(claim: Claim, cells: Sequence[Cell]) -> tuple[Cell, ...] | None:
    return _far(claim, cells, claim.theirs)


def _lost(claim: Claim, chosen: Sequence[Cell]) -> Finding:  # noqa: ARG001
    """What an optimizer loses against its own best at a large step."""
    own, far, rival = chosen
    about = (
        f"{far.name}: {far.mean:.4g}; its best, at {format_step(own.lr)}: {own.mean:.4g}; "
        f"the best of {rival.name}: {rival.mean:.4g}"
    )
    return Finding(_gain(own, far), about, _unit(own))


def _steps_saved(claim: Claim, chosen: Sequence[Cell]) -> Finding:  # noqa: ARG001
    ours, theirs = chosen
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

    Args:
        ours: a run.
        theirs: one of as many epochs of as many steps.
        higher: whether higher scores are better.
    """
    sound = [run for run in (ours, theirs) if not run.diverged and math.isfinite(run.score)]
    if len(sound) < 2:
        return float(ours in sound) - float(theirs in sound)
    goal = (min if higher else max)(ours.score, theirs.score)
    mine, yours = (epochs_to(run.scores, goal, higher=higher) for run in (ours, theirs))
    return (yours - mine) / max(mine, yours)


def _with_gaps(claim: Claim, cells: Sequence[Cell]) -> tuple[Cell, ...] | None:
    """The best of the settings whose runs have recorded their gaps."""
    ours = [
        cell
        for cell in of(cells, claim.ours)
        if all(r.result.trace_name == "gap" and len(r.result.trace) >= 10 for r in cell.rows)
    ]
    return (best(ours),) if ours else None


def _grows(claim: Claim, chosen: Sequence[Cell]) -> Finding:
    """How many times as large the gap <d, w> is over the last tenth of a run as earlier."""
    ratios = []
    for row in chosen[0].rows:
        trace = row.result.trace
        tenth, upto = len(trace) // 10, round(claim.since * len(trace))
        early, late = fmean(trace[upto - tenth : upto]), fmean(trace[-tenth:])
        ratios.append(late / early if early > 0 else math.nan)
    return Finding(tuple(ratios), chosen[0].name, "times the gap of then")


def _middle_and_end(claim: Claim, cells: Sequence[Cell]) -> tuple[Cell, ...] | None:
    """The best middle threshold, and the better of both ends, at any step."""
    ours = of(cells, claim.ours)
    thresholds = sorted({cell.rho for cell in ours if cell.rho is not None})
    if len(thresholds) < 3:
        return None
    per = [best([cell for cell in ours if cell.rho == rho]) for rho in thresholds]
    return best(per[1:-1]), best([per[0], per[-1]])


_Choose = Callable[[Claim, Sequence[Cell]], tuple[Cell, ...] | None]
_Measure = Callable[[Claim, Sequence[Cell]], Finding]

KINDS: Mapping[str, tuple[_Choose, _Measure]] = MappingProxyType(
    {
        "gain-of-best": (_pair, _gain_of_best),
        "keeps": (_our_far, _lost),
        "loses": (_their_far, _lost),
        "steps-saved": (_pair, _steps_saved),
        "grows": (_with_gaps, _grows),
        "middle-wins": (_middle_and_end, _gain_of_best),
    }
)


def read_claim(where: str, values: Mapping[str, Any]) -> Claim:
    """A claim from a figure's file.

    Args:
        where: file and scale, for the message.
        values: the fields of ``Claim``.

    Raises:
        LabError: if a field is unknown or missing.
    """
    try:
        return Claim(**values)
    except TypeError as error:
        raise LabError(f"{where}: a claim is not one ({error}).") from None
