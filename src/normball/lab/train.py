"""One training run: settings in, result out, the same every time."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from normball import ClippedScion, Scion
from normball.lab.config import RunConfig
from normball.lab.optimizers import find_optimizer
from normball.lab.tasks import find_task

_MAX_TRACE = 512
_TEST_BATCH = 1024
_TRACED = ("dual_norm", "gap")


@dataclass(frozen=True)
class EpochReport:
    """One epoch in numbers.

    Attributes:
        epoch: how many epochs are done, from 1.
        epochs: how many there are.
        loss: mean over the epoch's mini-batches of their mean cross-entropy.
        accuracy: share of the test images classified right after the epoch, in [0, 1].
        trace_name: ``"dual_norm"``, or ``"gap"`` for a constrained run; None for an optimizer that
            has neither.
        traced: that quantity at the epoch's last step.
        clipped_share: the share of steps so far with the quantity above the threshold, and so of
            full length; None for an optimizer without a threshold.
        images_per_second: training throughput, evaluation left out.
    """

    epoch: int
    epochs: int
    loss: float
    accuracy: float
    trace_name: str | None
    traced: float | None
    clipped_share: float | None
    images_per_second: float


@dataclass(frozen=True)
class RunResult:
    """What came out of a run.

    Attributes:
        test_accuracy: share of the test images classified right at the end, in [0, 1].
        train_loss: mean loss over the last epoch's mini-batches, as in ``EpochReport``.
        diverged: the loss became infinite or undefined; the run stopped after that epoch.
        epochs_done: epochs trained.
        accuracies: test accuracy after each epoch.
        losses: training loss of each epoch.
        trace_name: as in ``EpochReport``.
        trace: that quantity, at every ``trace_every``-th step from the first; at most 512 values.
        trace_every: the distance, in steps, of the trace's values.
        clipped_share: the share of steps above the threshold, as in ``EpochReport``.
        skipped: steps skipped because a gradient was not finite; None for Adam.
        seconds: wall time of training and evaluation.
    """

    test_accuracy: float
    train_loss: float
    diverged: bool
    epochs_done: int
    accuracies: list[float]
    losses: list[float]
    trace_name: str | None
    trace: list[float]
    trace_every: int
    clipped_share: float | None
    skipped: int | None
    seconds: float


@dataclass
class History:
    """What a run has seen so far.

    Attributes:
        reports: one for each epoch that is done.
        trace_name: as in ``EpochReport``.
        trace: that quantity, at every step.
    """

    reports: list[EpochReport] = field(default_factory=list)
    trace_name: str | None = None
    trace: list[float] = field(default_factory=list)


@dataclass
class TrainState:
    """All that a run carries from one epoch to the next.

    Attributes:
        model: the network.
        optimizer: the optimizer, momentum included.
        order: draws the order of the training data, and nothing else.
        epoch: how many epochs are done.
        history: what the run has seen; it goes into the result and decides nothing.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    order: torch.Generator
    epoch: int = 0
    history: History = field(default_factory=History)


class Trainer:
    """Trains one configuration from scratch.

    The state is explicit, and nothing outside it decides how training goes on.

    Attributes:
        config: the run's settings.
        state: the model, the optimizer, the generator of the data's order, and the epoch.
    """

    def __init__(self, config: RunConfig) -> None:
        task = find_task(config.task)
        self.config = config
        self._data = task.load()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            model = task.model()
        self.state = TrainState(
            model=model,
            optimizer=find_optimizer(config.optimizer).build(model, config),
            order=torch.Generator().manual_seed(config.seed),
        )

    def run(self, on_epoch: Callable[[EpochReport], None] | None = None) -> RunResult:
        """Train to the last epoch, or until the loss is no longer finite.

        Args:
            on_epoch: called after every epoch.

        Returns:
            The result; the trained weights are in ``state``.
        """
        started = time.perf_counter()
        while self.state.epoch < self.config.epochs:
            report = self._epoch()
            self.state.history.reports.append(report)
            if on_epoch is not None:
                on_epoch(report)
            if not math.isfinite(report.loss):
                break
        return self._result(time.perf_counter() - started)

    def _epoch(self) -> EpochReport:
        started = time.perf_counter()
        losses, traced = self._steps()
        seconds = time.perf_counter() - started
        self.state.epoch += 1
        self.state.history.trace.extend(traced)
        return EpochReport(
            epoch=self.state.epoch,
            epochs=self.config.epochs,
            loss=float(losses.mean()),
            accuracy=accuracy(self.state.model, self._data.test_x, self._data.test_y),
            trace_name=self.state.history.trace_name,
            traced=traced[-1] if traced else None,
            clipped_share=self._clipped_share(),
            images_per_second=len(losses) * self.config.batch_size / seconds,
        )

    def _steps(self) -> tuple[Tensor, list[float]]:
        """Take one epoch's steps; returns each step's loss and traced quantity."""
        model, optimizer, history = self.state.model, self.state.optimizer, self.state.history
        losses, traced = [], []
        for batch in self._batches():
            optimizer.zero_grad()
            loss = F.cross_entropy(model(self._data.train_x[batch]), self._data.train_y[batch])
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            losses.append(loss.detach())
            metrics = _metrics(optimizer)
            history.trace_name = next((name for name in _TRACED if name in metrics), None)
            if history.trace_name is not None:
                traced.append(metrics[history.trace_name].detach().clone())
        return torch.stack(losses), torch.stack(traced).tolist() if traced else []

    def _batches(self) -> list[Tensor]:
        """The epoch's mini-batches as index tensors, all of one size: a rest is left out."""
        size = self.config.batch_size
        order = torch.randperm(len(self._data.train_y), generator=self.state.order)
        return list(torch.split(order[: len(order) // size * size], size))

    def _clipped_share(self) -> float | None:
        if self.config.rho is None:
            return None
        return float(_metrics(self.state.optimizer)["clipped_share"])

    def _result(self, seconds: float) -> RunResult:
        history = self.state.history
        last = history.reports[-1]
        metrics = _metrics(self.state.optimizer)
        every = math.ceil(len(history.trace) / _MAX_TRACE) or 1
        return RunResult(
            test_accuracy=last.accuracy,
            train_loss=last.loss,
            diverged=not math.isfinite(last.loss),
            epochs_done=self.state.epoch,
            accuracies=[report.accuracy for report in history.reports],
            losses=[report.loss for report in history.reports],
            trace_name=history.trace_name,
            trace=history.trace[::every],
            trace_every=every,
            clipped_share=self._clipped_share(),
            skipped=int(metrics["skipped"]) if metrics else None,
            seconds=seconds,
        )


def _metrics(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    return optimizer.metrics() if isinstance(optimizer, Scion | ClippedScion) else {}


@torch.no_grad()
def accuracy(model: nn.Module, x: Tensor, y: Tensor) -> float:
    """The share of inputs a model classifies right; one with an undefined logit counts as wrong.

    Args:
        model: maps ``(n, ...)`` to logits ``(n, classes)``.
        x: inputs, shape ``(n, ...)``.
        y: classes, int64, shape ``(n,)``.
    """
    right = 0
    for inputs, classes in zip(*(torch.split(t, _TEST_BATCH) for t in (x, y)), strict=True):
        logits = model(inputs)
        hit = (logits.argmax(dim=1) == classes) & logits.isfinite().all(dim=1)
        right += int(hit.sum())
    return right / len(y)
