"""The reports of a run while it trains, and its result."""

import math
from dataclasses import dataclass, field
from typing import ClassVar


@dataclass(frozen=True)
class EpochReport:
    """One epoch in numbers.

    Attributes:
        epoch: how many epochs are done, from 1.
        epochs: how many there are.
        loss: mean over the epoch's mini-batches of their mean cross-entropy.
        score: the task's measure on the test set right after the epoch: for images the share
            classified right, in [0, 1]; for text the mean cross-entropy of a token, in nats.
        trace_name: ``"dual_norm"``, or ``"gap"`` for a constrained run; None for an optimizer that
            has neither.
        traced: that quantity at the epoch's last step.
        clipped_share: the share of steps so far with the quantity above the threshold, and so of
            full length; None for an optimizer without a threshold.
        per_second: training throughput in examples, evaluation left out.
    """

    epoch: int
    epochs: int
    loss: float
    score: float
    trace_name: str | None
    traced: float | None
    clipped_share: float | None
    per_second: float


@dataclass(frozen=True)
class RunResult:
    """The result of a run.

    Attributes:
        score: as in ``EpochReport``, at the end.
        train_loss: mean loss over the last epoch's mini-batches, as in ``EpochReport``.
        diverged: the loss became infinite or undefined; the run stopped after that epoch.
        epochs_done: epochs trained.
        scores: the score after each epoch.
        losses: training loss of each epoch.
        trace_name: as in ``EpochReport``.
        trace: that quantity, at every ``trace_every``-th step from the first; at most 512 values.
        trace_every: the distance, in steps, of the trace's values.
        clipped_share: the share of steps above the threshold, as in ``EpochReport``.
        skipped: steps skipped because a gradient was not finite; None if they are not counted.
        seconds: wall time of training and evaluation.
        steps: how many steps an epoch has; 0 in old rows, which do not have it.
        data: which data were used; empty in old rows.
        inner: of a constrained run, ``-<d, x>`` of the estimate and the weights after each epoch:
            the part of the gap that the weights make.
    """

    NULL: ClassVar[float] = math.nan

    score: float
    train_loss: float
    diverged: bool
    epochs_done: int
    scores: list[float]
    losses: list[float]
    trace_name: str | None
    trace: list[float]
    trace_every: int
    clipped_share: float | None
    skipped: int | None
    seconds: float
    steps: int = 0
    data: str = ""
    inner: list[float] = field(default_factory=list)


@dataclass
class History:
    """The measurements of a run so far, in numbers that a checkpoint can hold.

    Attributes:
        trace: the traced quantity, at every step.
        steps: how many steps were taken, those skipped left out.
        clipped: how many of them were of full length.
        skipped: how many were skipped for a gradient that was not finite.
        seconds: wall time of training and evaluation.
    """

    losses: list[float] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    trace_name: str | None = None
    trace: list[float] = field(default_factory=list)
    inner: list[float] = field(default_factory=list)
    steps: int = 0
    clipped: int = 0
    skipped: int = 0
    seconds: float = 0.0
