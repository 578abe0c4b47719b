"""One training run: settings in, result out, the same every time."""

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from normball import ClippedScion, Scion, SmoothnessProbe
from normball.lab.config import RunConfig
from normball.lab.errors import LabError
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
    """What the epochs of a run have shown, in numbers that a checkpoint can hold.

    Attributes:
        losses: training loss of each epoch.
        accuracies: test accuracy after each epoch.
        trace_name: as in ``EpochReport``.
        trace: that quantity, at every step.
        steps: how many steps were taken, those skipped left out.
        clipped: how many of them were of full length.
        skipped: how many were skipped for a gradient that was not finite.
        seconds: wall time of training and evaluation.
    """

    losses: list[float] = field(default_factory=list)
    accuracies: list[float] = field(default_factory=list)
    trace_name: str | None = None
    trace: list[float] = field(default_factory=list)
    steps: int = 0
    clipped: int = 0
    skipped: int = 0
    seconds: float = 0.0


@dataclass
class TrainState:
    """All that a run carries from one epoch to the next.

    Attributes:
        model: the network.
        optimizer: the optimizer, momentum included.
        schedule: sets the step size of every step.
        order: draws the order of the training data, and nothing else.
        epoch: how many epochs are done.
        history: what the run has seen; it goes into the result and decides nothing.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    schedule: torch.optim.lr_scheduler.LRScheduler
    order: torch.Generator
    epoch: int = 0
    history: History = field(default_factory=History)


class Trainer:
    """Trains one configuration from scratch.

    The state is explicit, and nothing outside it decides how training goes on.

    Attributes:
        config: the run's settings.
        state: the model, the optimizer, the generator of the data's order, and the epoch.
        probe: measures the smoothness on the way, if asked to.

    Args:
        config: the run's settings.
        probe_every: measure the smoothness once in so many steps; None for never.

    Raises:
        LabError: if the optimizer has no norms to measure in.
    """

    def __init__(self, config: RunConfig, *, probe_every: int | None = None) -> None:
        task = find_task(config.task)
        self.config = config
        self._data = task.load()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            model = task.model()
        optimizer = find_optimizer(config.optimizer).build(model, config)
        total = config.epochs * (len(self._data.train_y) // config.batch_size)
        self.state = TrainState(
            model=model,
            optimizer=optimizer,
            schedule=make_schedule(config.schedule, optimizer, total),
            order=torch.Generator().manual_seed(config.seed),
        )
        self.probe: SmoothnessProbe | None = None
        if probe_every is not None:
            if not isinstance(optimizer, Scion | ClippedScion):
                raise LabError(
                    f"{config.optimizer} has no norms to measure in: choose scion or clipped-scion."
                )
            self.probe = SmoothnessProbe(optimizer, every=probe_every, model=model)

    def run(self, on_epoch: Callable[[EpochReport], None] | None = None) -> RunResult:
        """Train to the last epoch, or until the loss is no longer finite.

        Args:
            on_epoch: called after every epoch.

        Returns:
            The result; the trained weights are in ``state``.
        """
        history = self.state.history
        while self.state.epoch < self.config.epochs and not self._diverged():
            started = time.perf_counter()
            report = self._epoch()
            history.seconds += time.perf_counter() - started
            if on_epoch is not None:
                on_epoch(report)
        return self._result()

    def snapshot(self) -> dict[str, Any]:
        """Everything that decides how the run goes on, in tensors, numbers, strings and lists."""
        state = self.state
        return {
            "model": state.model.state_dict(),
            "optimizer": state.optimizer.state_dict(),
            "schedule": state.schedule.state_dict(),
            "order": state.order.get_state(),
            "rng": torch.get_rng_state(),
            "epoch": state.epoch,
            "history": asdict(state.history),
        }

    def restore(self, snapshot: dict[str, Any]) -> None:
        """Go on from a snapshot of the same configuration, bit for bit.

        Args:
            snapshot: from ``snapshot``.

        Raises:
            LabError: if it does not fit; this trainer must then be thrown away.
        """
        state = self.state
        try:
            state.model.load_state_dict(snapshot["model"])
            state.optimizer.load_state_dict(snapshot["optimizer"])
            state.schedule.load_state_dict(snapshot["schedule"])
            state.order.set_state(snapshot["order"])
            torch.set_rng_state(snapshot["rng"])
            state.epoch = int(snapshot["epoch"])
            state.history = History(**snapshot["history"])
        except (KeyError, TypeError, ValueError, RuntimeError, AttributeError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise LabError(f"its state does not fit ({reason}).") from None

    def _diverged(self) -> bool:
        losses = self.state.history.losses
        return bool(losses) and not math.isfinite(losses[-1])

    def _epoch(self) -> EpochReport:
        started = time.perf_counter()
        losses, traced = self._steps()
        seconds = time.perf_counter() - started
        self.state.epoch += 1
        history = self.state.history
        history.trace.extend(traced)
        history.losses.append(float(losses.mean()))
        history.accuracies.append(accuracy(self.state.model, self._data.test_x, self._data.test_y))
        return EpochReport(
            epoch=self.state.epoch,
            epochs=self.config.epochs,
            loss=history.losses[-1],
            accuracy=history.accuracies[-1],
            trace_name=history.trace_name,
            traced=traced[-1] if traced else None,
            clipped_share=self._clipped_share(),
            images_per_second=len(losses) * self.config.batch_size / seconds,
        )

    def _steps(self) -> tuple[Tensor, list[float]]:
        """Take one epoch's steps; returns each step's loss and traced quantity."""
        model, optimizer, history = self.state.model, self.state.optimizer, self.state.history
        losses, traced, factors = [], [], []
        before = _metrics(optimizer)
        for batch in self._batches():

            def closure(batch: Tensor = batch) -> Tensor:
                optimizer.zero_grad()
                loss = F.cross_entropy(model(self._data.train_x[batch]), self._data.train_y[batch])
                loss.backward()  # type: ignore[no-untyped-call]
                return loss

            losses.append(self._step(closure).detach())
            self.state.schedule.step()
            metrics = _metrics(optimizer)
            history.trace_name = next((name for name in _TRACED if name in metrics), None)
            if history.trace_name is not None:
                traced.append(metrics[history.trace_name].detach().clone())
                factors.append(metrics["step_factor"])
        if factors:
            # The optimizer's own counts start anew in every process.
            skipped = int(_metrics(optimizer)["skipped"] - before["skipped"])
            history.skipped += skipped
            history.steps += len(factors) - skipped
            history.clipped += int((torch.stack(factors) >= 1).sum())
        return torch.stack(losses), torch.stack(traced).tolist() if traced else []

    def _step(self, closure: Callable[[], Tensor]) -> Tensor:
        if self.probe is not None:
            return self.probe.step(closure)
        loss = closure()
        self.state.optimizer.step()
        return loss

    def _batches(self) -> list[Tensor]:
        """The epoch's mini-batches as index tensors, all of one size: a rest is left out."""
        size = self.config.batch_size
        order = torch.randperm(len(self._data.train_y), generator=self.state.order)
        return list(torch.split(order[: len(order) // size * size], size))

    def _clipped_share(self) -> float | None:
        history = self.state.history
        return None if self.config.rho is None else history.clipped / max(history.steps, 1)

    def _result(self) -> RunResult:
        history = self.state.history
        every = math.ceil(len(history.trace) / _MAX_TRACE) or 1
        return RunResult(
            test_accuracy=history.accuracies[-1],
            train_loss=history.losses[-1],
            diverged=self._diverged(),
            epochs_done=self.state.epoch,
            accuracies=list(history.accuracies),
            losses=list(history.losses),
            trace_name=history.trace_name,
            trace=history.trace[::every],
            trace_every=every,
            clipped_share=self._clipped_share(),
            skipped=None if history.trace_name is None else history.skipped,
            seconds=history.seconds,
        )


def make_schedule(
    name: str, optimizer: torch.optim.Optimizer, steps: int
) -> torch.optim.lr_scheduler.LambdaLR:
    """How the step size changes from step to step.

    Args:
        name: ``"constant"``, or ``"linear"``: from its full size at the first step down to 0 after
            the last.
        optimizer: whose step size it sets.
        steps: length of the run.
    """
    linear = name == "linear"
    return torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: max(0.0, 1 - step / steps) if linear else 1.0
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
