"""A summary of rows: the best step of each optimizer, the range of good steps, and the claim."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import fsum, sqrt
from statistics import fmean, variance

from normball.lab.config import format_step
from normball.lab.optimizers import OPTIMIZERS
from normball.lab.rows import Row

WITHIN = 1.0
BELOW = 5.0
# Accuracies are multiples of one image; this only keeps rounding from deciding a tie.
_ROUNDING = 1e-9


@dataclass(frozen=True)
class StepResult:
    """All runs of one optimizer at one step size.

    Attributes:
        lr: the step size.
        accuracies: test accuracy of each seed, in percent, by ascending seed.
        clipped_share: mean share of steps above the threshold, in [0, 1]; None without a threshold.
        diverged: how many of the runs diverged.
    """

    lr: float
    accuracies: tuple[float, ...]
    clipped_share: float | None
    diverged: int

    @property
    def mean(self) -> float:
        """Mean test accuracy over the seeds, in percent."""
        return fmean(self.accuracies)


@dataclass(frozen=True)
class Summary:
    """One optimizer over its grid of step sizes.

    Attributes:
        optimizer: its name.
        steps: one entry per step size, ascending.
    """

    optimizer: str
    steps: tuple[StepResult, ...]

    @property
    def label(self) -> str:
        """The optimizer's name in a report."""
        return OPTIMIZERS[self.optimizer].label

    @property
    def best(self) -> StepResult:
        """The step size with the highest mean accuracy; among equals, the smallest."""
        return max(self.steps, key=lambda step: step.mean)

    @property
    def good(self) -> tuple[StepResult, ...]:
        """The range of the grid around the best step with an accuracy within one point of it."""
        centre = self.steps.index(self.best)
        first = last = centre
        while first > 0 and self._near(first - 1):
            first -= 1
        while last + 1 < len(self.steps) and self._near(last + 1):
            last += 1
        return self.steps[first : last + 1]

    @property
    def factor(self) -> float:
        """The largest good step size divided by the smallest one."""
        return self.good[-1].lr / self.good[0].lr

    @property
    def reaches_end(self) -> bool:
        """Whether the good range reaches an end of the grid, so that it may be wider than that."""
        return self.good[0] is self.steps[0] or self.good[-1] is self.steps[-1]

    def _near(self, index: int) -> bool:
        return self.best.mean - self.steps[index].mean <= WITHIN + _ROUNDING


@dataclass(frozen=True)
class Verdict:
    """Whether a fixed step exists that works with clipping, and loses accuracy without it.

    Attributes:
        holds: whether the claim holds; None if the rows do not decide it.
        lr: the step that shows it best, or that comes closest; None if there is no such step.
        text: the verdict in words, with its figures.
    """

    holds: bool | None
    lr: float | None
    text: str


CLAIM = (
    "There is a fixed step size at which Clipped Scion is within 1 point of its own best accuracy "
    "and Scion, without clipping, at least 5 points below its own."
)


def summarise(rows: Iterable[Row]) -> tuple[Summary, ...]:
    """Group rows by optimizer and step size.

    Args:
        rows: finished runs of one comparison.

    Returns:
        One summary per optimizer that has rows, in the order of the registry.
    """
    rows = list(rows)
    grouped = []
    for name in OPTIMIZERS:
        own = [row for row in rows if row.config.optimizer == name]
        steps = sorted({row.config.lr for row in own})
        if steps:
            grouped.append(Summary(name, tuple(_step_result(lr, own) for lr in steps)))
    return tuple(grouped)


def _step_result(lr: float, rows: Sequence[Row]) -> StepResult:
    own = sorted((row for row in rows if row.config.lr == lr), key=lambda row: row.config.seed)
    shares = [share for row in own if (share := row.result.clipped_share) is not None]
    return StepResult(
        lr=lr,
        accuracies=tuple(100 * row.result.score for row in own),
        clipped_share=fmean(shares) if shares else None,
        diverged=sum(row.result.diverged for row in own),
    )


def judge(summaries: Iterable[Summary]) -> Verdict:
    """Decide the claim from the mean accuracies over the seeds.

    Args:
        summaries: from ``summarise``.

    Returns:
        The verdict; undecided where one of the two optimizers, or a step they share, is missing.
    """
    known = {summary.optimizer: summary for summary in summaries}
    if not {"clipped-scion", "scion"} <= set(known):
        return Verdict(None, None, "It cannot be judged: it needs runs of both Scions.")
    clipped, plain = known["clipped-scion"], known["scion"]
    plain_at = {step.lr: step for step in plain.steps}
    pairs = [(step, plain_at[step.lr]) for step in clipped.steps if step.lr in plain_at]
    if not pairs:
        return Verdict(None, None, "It cannot be judged: the two Scions share no step size.")
    near = [pair for pair in pairs if clipped.best.mean - pair[0].mean <= WITHIN + _ROUNDING]
    if not near:
        return Verdict(
            None,
            None,
            "It cannot be judged: no step within 1 point of Clipped Scion's best was run without "
            "clipping.",
        )
    ours, theirs = min(near, key=lambda pair: pair[1].mean)
    loss = plain.best.mean - theirs.mean
    holds = loss >= BELOW - _ROUNDING
    text = (
        f"{'It holds' if holds else 'It does not hold: the nearest to it is'} at the step "
        f"{format_step(ours.lr)}. {_beside('Clipped Scion', ours, clipped)}; "
        f"{_beside('Scion', theirs, plain)}."
    )
    return Verdict(holds, ours.lr, text)


def _beside(label: str, step: StepResult, summary: Summary) -> str:
    short = summary.best.mean - step.mean
    own = f"{label} reaches {step.mean:.1f} %"
    if step is summary.best:
        return f"{own} there, its best"
    return (
        f"{own} there, {short:.1f} points below its own best of {summary.best.mean:.1f} % "
        f"at {format_step(summary.best.lr)}"
    )


def in_words(summary: Summary) -> str:
    """One sentence: the best accuracy, its step, and how wide the good steps are.

    Args:
        summary: of one optimizer.
    """
    best, good = summary.best, summary.good
    sentence = f"{summary.label} is best at the step {format_step(best.lr)} with {best.mean:.1f} %"
    if len(good) == 1:
        return f"{sentence}, and no neighbouring step is within 1 point of that."
    return (
        f"{sentence}, and stays within 1 point of that from {format_step(good[0].lr)} to "
        f"{format_step(good[-1].lr)}, a factor of {width(summary)}."
    )


def width(summary: Summary) -> str:
    """The good steps' width as a factor, with ``or more`` where the grid ends there.

    Args:
        summary: of one optimizer.
    """
    return f"{summary.factor:.3g}{' or more' if summary.reaches_end else ''}"


def seed_deviation(summaries: Iterable[Summary]) -> float | None:
    """The standard deviation of the seeds at one step size, pooled over all good steps.

    Args:
        summaries: from ``summarise``.

    Returns:
        Points of accuracy; None where no step has two seeds.
    """
    steps = [step.accuracies for summary in summaries for step in summary.good]
    steps = [values for values in steps if len(values) > 1]
    if not steps:
        return None
    squares = fsum(variance(values) * (len(values) - 1) for values in steps)
    return sqrt(squares / sum(len(values) - 1 for values in steps))
