"""One training run, from settings to a result; it is the same every time."""

import itertools
import math
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from normball import ClippedScion, Scion, SmoothnessProbe, find_lr
from normball.lab import ranks
from normball.lab.averaged import measured
from normball.lab.config import RunConfig
from normball.lab.data import Data
from normball.lab.data.base import Batch
from normball.lab.errors import LabError
from normball.lab.models import Airbench
from normball.lab.optimizers import find_optimizer
from normball.lab.results import EpochReport, History, RunResult
from normball.lab.schedules import make_schedule
from normball.lab.tasks import build_model, find_task
from normball.optim.finder import LrCurve

_MAX_TRACE = 512
_STATISTICS_BATCHES = 10
_TRACED = ("dual_norm", "gap")


@dataclass
class TrainState:
    """The state of a run between two epochs.

    Attributes:
        model: the network.
        optimizer: the optimizer, momentum included.
        schedule: sets the step size of every step.
        order: draws the order of the training data, and nothing else.
        epoch: how many epochs are done.
        history: the measurements of the run, for the result; training does not depend on it.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    schedule: torch.optim.lr_scheduler.LRScheduler
    order: torch.Generator
    epoch: int = 0
    history: History = field(default_factory=History)


class Trainer:
    """Trains one configuration from scratch.

    The state is explicit: how training continues depends on nothing else.

    Attributes:
        config: the run's settings.
        state: the model, the optimizer, the generator of the data's order, and the epoch.
        steps_per_epoch: how many steps an epoch has.
        probe: measures the smoothness during the run, if that was asked for.

    Args:
        probe_every: measure the smoothness once in this many steps; None for never.

    Raises:
        LabError: if an epoch has no step, the optimizer has no norms to measure in, or there are so
            few measurements that no line can be fitted.
    """

    def __init__(self, config: RunConfig, *, probe_every: int | None = None) -> None:
        task = find_task(config.task)
        self.config = config
        self._task = task
        self._device = ranks.device()
        self._data: Data = task.data(config)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            model = build_model(config)
        if isinstance(model, Airbench):
            model.whiten(self._data.sample())
        model.to(self._device)
        spec = find_optimizer(config.optimizer)
        optimizer = spec.build(model, config)
        # Gradient clipping from outside, for an optimizer that has none.
        self._clip_at = config.rho if spec.clips_outside else None
        self._averages = "average" in optimizer.param_groups[0]
        self.steps_per_epoch = self._data.steps(config.batch_size)
        if not self.steps_per_epoch:
            raise LabError(
                f"--batch-size {config.batch_size} is more than there are training examples in "
                f"{self.source}: choose a smaller one."
            )
        total = config.epochs * self.steps_per_epoch
        self.state = TrainState(
            model=model,
            optimizer=optimizer,
            schedule=make_schedule(config.schedule, optimizer, total, config.warmup),
            order=torch.Generator().manual_seed(config.seed),
        )
        self._shared = ranks.shared(model)
        self.probe: SmoothnessProbe | None = None
        if probe_every is not None:
            if not isinstance(optimizer, Scion | ClippedScion):
                raise LabError(
                    f"{config.optimizer} has no norms to measure in: choose scion or clipped-scion."
                )
            if (measured := math.ceil(total / probe_every)) < 3:
                raise LabError(
                    f"--every {probe_every} measures {measured} of the {total} steps, and a fit "
                    "needs three: measure more often, or train longer."
                )
            self.probe = SmoothnessProbe(optimizer, every=probe_every, model=model)

    @property
    def source(self) -> str:
        """Which data the run is trained on."""
        return self._data.source

    def run(self, on_epoch: Callable[[EpochReport], None] | None = None) -> RunResult:
        """Train to the last epoch, or until the loss is no longer finite; a report after each."""
        for report in self.epochs():
            if on_epoch is not None:
                on_epoch(report)
        return self.result()

    def epochs(self) -> Iterator[EpochReport]:
        """Train as ``run`` does, with a report after every epoch."""
        history = self.state.history
        while self.state.epoch < self.config.epochs and not self._diverged():
            started = time.perf_counter()
            report = self._epoch()
            history.seconds += time.perf_counter() - started
            yield report

    def find_lr(self) -> LrCurve:
        """Look for a step size; the run is unchanged afterwards.

        A LabError if the optimizer is not a Scion, or the loss never falls.
        """
        optimizer = self.state.optimizer
        if not isinstance(optimizer, Scion | ClippedScion):
            raise LabError(
                f"{self.config.optimizer} takes no steps of a given length: choose scion, "
                "clipped-scion, clipped-scion-auto or default."
            )
        order = torch.Generator().manual_seed(self.config.seed)
        batches = (
            b for _ in itertools.count() for b in self._data.batches(self.config.batch_size, order)
        )

        def closure() -> Tensor:
            optimizer.zero_grad()
            return self._backward(next(batches))

        before = torch.get_rng_state()
        try:
            return find_lr(optimizer, closure, model=self.state.model)
        except ValueError as error:
            raise LabError(f"{error}.") from None
        finally:
            torch.set_rng_state(before)

    def snapshot(self) -> dict[str, Any]:
        """Everything that decides how the run continues, in tensors, numbers, strings and lists."""
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
        """Continue from a snapshot of the same configuration, bit for bit.

        After a LabError, which says that it does not fit, do not use this trainer any more.
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
        history.scores.append(self._score())
        if history.trace_name == "gap":
            history.inner.append(_inner(self.state.optimizer))
        return EpochReport(
            epoch=self.state.epoch,
            epochs=self.config.epochs,
            loss=history.losses[-1],
            score=history.scores[-1],
            trace_name=history.trace_name,
            traced=traced[-1] if traced else None,
            clipped_share=self._clipped_share(),
            per_second=len(losses) * self.config.batch_size / seconds,
        )

    def _score(self) -> float:
        model, measure = self.state.model, accuracy if self._task.higher else mean_loss
        batches = ((x.to(self._device), y.to(self._device)) for x, y in self._data.test_batches())
        if not self._averages:
            model.eval()
            with self._autocast():
                value = measure(model, batches)
            model.train()
            return value
        with self._autocast(), measured(model, self.state.optimizer, self._inputs()):
            return measure(model, batches)

    def _inputs(self) -> Iterator[Tensor]:
        """Some training inputs, the same at every measurement."""
        order = torch.Generator().manual_seed(self.config.seed)
        batches = self._data.batches(self.config.batch_size, order)
        return (x.to(self._device) for x, _ in itertools.islice(batches, _STATISTICS_BATCHES))

    def _steps(self) -> tuple[Tensor, list[float]]:
        """Take one epoch's steps; returns each step's loss and traced quantity."""
        optimizer, history = self.state.optimizer, self.state.history
        losses, traced, factors = [], [], []
        clips: list[Tensor] = []
        before = _metrics(optimizer)
        for batch in self._data.batches(self.config.batch_size, self.state.order):

            def closure(batch: Batch = batch) -> Tensor:
                optimizer.zero_grad()
                return self._backward(batch)

            losses.append(self._step(closure, clips).detach())
            self.state.schedule.step()
            metrics = _metrics(optimizer)
            history.trace_name = next((name for name in _TRACED if name in metrics), None)
            if history.trace_name is not None:
                traced.append(metrics[history.trace_name].detach().clone())
                factors.append(metrics["step_factor"])
        if factors:
            # The optimizer's own counts start from zero in every process.
            skipped = int(_metrics(optimizer)["skipped"] - before["skipped"])
            history.skipped += skipped
            history.steps += len(factors) - skipped
            history.clipped += int((torch.stack(factors) >= 1).sum())
        if self._clip_at is not None:
            history.steps += len(clips)
            history.clipped += int((torch.stack(clips) >= self._clip_at).sum())
        return torch.stack(losses), torch.stack(traced).tolist() if traced else []

    def _backward(self, batch: Batch) -> Tensor:
        """The mean loss of a mini-batch; gradients are added up, in ``accumulate`` parts."""
        parts = self.config.accumulate
        losses = []
        for number, (x, y) in enumerate(zip(*(t.chunk(parts) for t in batch), strict=True), 1):
            x, y = (ranks.share(t).to(self._device) for t in (x, y))
            last = number == parts
            with nullcontext() if last or ranks.world() == 1 else self._shared.no_sync():  # type: ignore[operator]
                with self._autocast():
                    loss = self._task.loss(self._shared(x), y) / parts
                loss.backward()  # type: ignore[no-untyped-call]
            losses.append(loss.detach())
        return ranks.mean(losses[0] if parts == 1 else torch.stack(losses).sum())

    def _autocast(self) -> torch.autocast | nullcontext[None]:
        if self.config.precision == "float32":
            return nullcontext()
        return torch.autocast(self._device.type, dtype=torch.bfloat16)

    def _step(self, closure: Callable[[], Tensor], clips: list[Tensor]) -> Tensor:
        if self.probe is not None:
            return self.probe.step(closure)
        loss = closure()
        if self._clip_at is not None:
            clips.append(nn.utils.clip_grad_norm_(self.state.model.parameters(), self._clip_at))
        self.state.optimizer.step()
        return loss

    def _clipped_share(self) -> float | None:
        history = self.state.history
        clips = self._clip_at is not None or isinstance(self.state.optimizer, ClippedScion)
        return history.clipped / max(history.steps, 1) if clips else None

    def result(self) -> RunResult:
        """The result of the epochs so far; there must have been one."""
        history = self.state.history
        every = math.ceil(len(history.trace) / _MAX_TRACE) or 1
        return RunResult(
            score=history.scores[-1],
            train_loss=history.losses[-1],
            diverged=self._diverged(),
            epochs_done=self.state.epoch,
            scores=list(history.scores),
            losses=list(history.losses),
            trace_name=history.trace_name,
            trace=history.trace[::every],
            trace_every=every,
            clipped_share=self._clipped_share(),
            skipped=None if history.trace_name is None else history.skipped,
            seconds=history.seconds,
            steps=self.steps_per_epoch,
            data=self.source,
            inner=list(history.inner),
        )


def _metrics(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    return optimizer.metrics() if isinstance(optimizer, Scion | ClippedScion) else {}


def _inner(optimizer: torch.optim.Optimizer) -> float:
    """The sum of ``-<d, x>`` over all parameters."""
    total = 0.0
    for parameter, state in optimizer.state.items():
        total -= float((state["momentum"] * parameter.detach()).sum(dtype=torch.float64))
    return total


@torch.no_grad()
def accuracy(model: nn.Module, batches: Iterable[Batch]) -> float:
    """The share of inputs a model classifies right; one with an undefined logit counts as wrong.

    Args:
        model: maps ``(n, ...)`` to logits ``(n, classes)``.
        batches: inputs of shape ``(n, ...)`` and classes, int64, of shape ``(n,)``.
    """
    right = total = 0
    for inputs, classes in batches:
        logits = model(inputs)
        hit = (logits.argmax(dim=1) == classes) & logits.isfinite().all(dim=1)
        right += int(hit.sum())
        total += len(classes)
    return right / total


@torch.no_grad()
def mean_loss(model: nn.Module, batches: Iterable[Batch]) -> float:
    """The mean cross-entropy of a token, in nats.

    Args:
        model: maps tokens ``(n, length)`` to logits ``(n, length, vocabulary)``.
        batches: tokens and those that follow them, both int64 of shape ``(n, length)``.
    """
    total = torch.zeros((), dtype=torch.float64)
    count = 0
    for inputs, following in batches:
        logits = model(inputs).flatten(0, -2).float()
        total += F.cross_entropy(logits, following.flatten(), reduction="sum").double().cpu()
        count += following.numel()
    return float(total) / count
