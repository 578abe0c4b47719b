"""A first guess of the step size: short training with steps that grow."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from numbers import Real
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from normball._style import new_axes
from normball.optim import metrics, validate
from normball.optim.clipped_scion import ClippedScion
from normball.optim.scion import Scion

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# The weight of earlier losses in the smoothed loss, and the number of first steps that measure how
# much the loss varies from batch to batch.
_WEIGHT, _QUIET = 0.8, 10
# A threshold below every dual norm: every step has its full length.
_NO_THRESHOLD = 1e-30


@dataclass(frozen=True, repr=False)
class LrCurve:
    """The loss at growing step sizes.

    Attributes:
        lrs: step sizes, each larger than the one before by a constant factor.
        losses: the loss before each step, averaged over about five steps; as long as `lrs`.
        suggestion: the step size at which `losses` fall (with `maximize`, rise) fastest per factor
            of `lr`.
        maximize: whether the optimizer makes the loss larger.

    Examples:
        >>> from normball.optim import LrCurve
        >>> LrCurve((0.01, 0.02, 0.04, 0.08), (2.0, 1.5, 1.25, 3.0), suggestion=0.02)
        LrCurve(suggestion=0.02, lowest loss 1.25 at 0.04, 4 step sizes from 0.01 to 0.08)
    """

    lrs: tuple[float, ...]
    losses: tuple[float, ...]
    suggestion: float
    maximize: bool = False

    @property
    def best(self) -> tuple[float, float]:
        """The step size at which the loss is lowest (with `maximize`, highest), and that loss."""
        pairs = zip(self.lrs, self.losses, strict=True)
        return (max if self.maximize else min)(pairs, key=lambda pair: pair[1])

    def __repr__(self) -> str:
        lr, loss = self.best
        return (
            f"LrCurve(suggestion={self.suggestion:.3g}, "
            f"{'highest' if self.maximize else 'lowest'} loss {loss:.4g} at {lr:.3g}, "
            f"{len(self.lrs)} step sizes from {self.lrs[0]:.3g} to {self.lrs[-1]:.3g})"
        )

    def plot(self, axes: "Axes | None" = None) -> "Axes":
        """Draw the loss against the step size, and the suggestion.

        `curve.plot().figure.savefig("lr.png")` saves the picture.

        Args:
            axes: where to draw; None makes a new figure.

        Raises:
            ImportError: matplotlib is missing.

        Examples:
            >>> from normball.optim import LrCurve
            >>> curve = LrCurve((0.01, 0.02, 0.04), (2.0, 1.5, 1.25), suggestion=0.02)
            >>> curve.plot().get_xscale()
            'log'
        """
        axes = axes or new_axes()
        lr, loss = self.best
        axes.plot(self.lrs, self.losses, color="#0072b2")
        label = f"suggestion: {self.suggestion:.3g}, 2^{math.log2(self.suggestion):.1f}"
        axes.axvline(self.suggestion, color="#d55e00", linestyle="--", label=label)
        word = "highest" if self.maximize else "lowest"
        axes.plot([lr], [loss], "o", color="#0072b2", label=f"{word} loss: {loss:.3g} at {lr:.3g}")
        axes.set_xscale("log", base=2)
        axes.set(xlabel="step size", ylabel="loss, smoothed")
        axes.legend()
        return axes


def find_lr(
    optimizer: ClippedScion | Scion,
    closure: Callable[[], Tensor | float],
    *,
    low: float = 1e-5,
    high: float = 1.0,
    steps: int = 100,
    model: nn.Module | None = None,
) -> LrCurve:
    """Train for `steps` steps that grow from `low` to `high`, and undo them.

    This is the range test of Smith (arXiv 1506.01186), with steps of full length: a threshold `rho`
    has no effect meanwhile. The test ends early when the loss is no longer finite. It also ends
    when the loss is above its start by more than it had fallen below it, and by more than three
    times its scatter in the first ten steps. Afterwards weights, momentum, settings and gradients
    are as before, even after an error. That takes a copy of weights and momentum. The test is a
    heuristic: `docs/howto/measure.md` shows how well it did.

    Args:
        optimizer: as it will be used for training. Its groups keep the ratios of their `lr`.
        closure: clears the gradients, computes the loss of a *new* batch, calls `backward`, returns
            the loss; the same one on every rank.
        low: the first step size, positive.
        high: the last one, at most 1 if constrained.
        steps: how many at most, at least 10.
        model: its buffers (batch norm) are restored too.

    Raises:
        TypeError: another kind of optimizer, a value that is not a number, or a closure that
            returns no loss.
        ValueError: a number out of range; a loss that is not finite at the first step, or that
            never falls: the message has the losses.

    Examples:
        >>> import torch
        >>> from normball import Scion, find_lr
        >>> w = torch.nn.Parameter(torch.tensor([3.0, 4.0]))
        >>> optimizer = Scion([w], lr=0.01)
        >>> def closure():
        ...     optimizer.zero_grad()
        ...     loss = w.square().sum()
        ...     loss.backward()
        ...     return loss
        >>> curve = find_lr(optimizer, closure, low=1e-3, high=1.0, steps=20)
        >>> 0.01 < curve.suggestion < 1.0, w.tolist()
        (True, [3.0, 4.0])
    """
    if not isinstance(optimizer, ClippedScion | Scion):
        raise TypeError(f"find_lr takes ClippedScion or Scion, not {type(optimizer).__name__}")
    optimizer._check_mode()
    low = validate.check_number("low", low, low=0, open_low=True)
    largest = 1.0 if optimizer._constrained else math.inf
    high = validate.check_number("high", high, low=low, high=largest, open_low=True)
    if not (isinstance(steps, int) and steps >= 10):
        raise ValueError(f"steps={steps!r} must be a whole number of at least 10")
    lrs = [low * (high / low) ** (i / (steps - 1)) for i in range(steps)]
    raw: list[float] = []
    losses: list[float] = []
    mean = 0.0
    sign = -1.0 if optimizer._estimator.maximize else 1.0
    with _undone(optimizer, model) as set_lr:
        for lr in lrs:
            set_lr(lr)
            with torch.enable_grad():
                loss = sign * _number(closure())
            mean = _WEIGHT * mean + (1 - _WEIGHT) * loss
            smooth = mean / (1 - _WEIGHT ** (len(losses) + 1))
            if not math.isfinite(loss) or _has_risen(raw, losses, smooth):
                break
            raw.append(loss)
            losses.append(smooth)
            optimizer.step()
    suggestion = _steepest(lrs, losses)
    return LrCurve(
        tuple(lrs[: len(losses)]), tuple(sign * x for x in losses), suggestion, maximize=sign < 0
    )


def _number(loss: Tensor | float) -> float:
    if isinstance(loss, Tensor) and loss.numel() == 1:
        return float(loss.detach())
    if isinstance(loss, Real):
        return float(loss)
    shown = f"a tensor of shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else repr(loss)
    raise TypeError(f"the closure returned {shown}: it must return the loss, one number")


def _has_risen(raw: list[float], losses: list[float], now: float) -> bool:
    if len(raw) < _QUIET:
        return False
    scatter = max(raw[:_QUIET]) - min(raw[:_QUIET])
    return now - losses[0] > max(losses[0] - min(losses), 3 * scatter)


def _steepest(lrs: list[float], losses: list[float]) -> float:
    """Return the step in the middle of the four over which the losses fall most."""
    falls = [losses[i - 2] - losses[i + 2] for i in range(2, len(losses) - 2)]
    if not falls or max(falls) <= 0:
        raise ValueError(
            f"the loss never fell, from {losses[:1]} over {len(losses)} steps: a smaller low, a "
            "loss that is finite at the start, or more steps are needed"
        )
    return lrs[2 + falls.index(max(falls))]


@contextmanager
def _undone(
    optimizer: ClippedScion | Scion, model: nn.Module | None
) -> Iterator[Callable[[float], None]]:
    """Yield a function that sets the largest `lr`, without a threshold; restore all at the end."""
    groups = optimizer.param_groups
    params = [p for group in groups for p in group["params"]]
    tensors = [*params, *(model.buffers() if model is not None else ())]
    values = [x.detach().clone() for x in tensors]
    grads = [None if p.grad is None else p.grad.clone() for p in params]
    state = {
        p: {name: value.clone() for name, value in entry.items()}
        for p, entry in optimizer.state.items()
    }
    settings = [_settings(group) for group in groups]
    inside, record = dict(optimizer._known.inside), optimizer._record
    average, optimizer._average = optimizer._average, None
    optimizer._record = metrics.Record()
    # A warm-up starts at 0; the ratios are those of the values that it leads to.
    rates = [float(group.get("initial_lr", group["lr"])) for group in groups]
    top = max(rates)

    def set_lr(lr: float) -> None:
        for group, rate in zip(groups, rates, strict=True):
            _put(group, "lr", lr * rate / top if top else lr)

    for group in groups:
        if "rho" in group:
            group["rho"] = _NO_THRESHOLD
    try:
        yield set_lr
    finally:
        with torch.no_grad():
            for x, value in zip(tensors, values, strict=True):
                x.copy_(value)
            for p, grad in zip(params, grads, strict=True):
                p.grad = grad
            optimizer.state.clear()
            optimizer.state.update(state)
            for group, kept in zip(groups, settings, strict=True):
                for name, (held, value) in kept.items():
                    group[name] = held.fill_(value) if isinstance(held, Tensor) else held
            optimizer._known.inside, optimizer._record = inside, record
            optimizer._average = average


@contextmanager
def same_random_numbers(device: torch.device) -> Iterator[None]:
    """Restore torch's random numbers, those of the CPU and of a device, at the end.

    Args:
        device: any.
    """
    devices, kind = ([], "cuda") if device.type == "cpu" else ([device], device.type)
    with torch.random.fork_rng(devices, device_type=kind):
        yield


def _settings(group: dict[str, Any]) -> dict[str, tuple[Any, float]]:
    return {name: (group[name], float(group[name])) for name in ("lr", "rho") if name in group}


def _put(group: dict[str, Any], name: str, value: float) -> None:
    held = group[name]
    group[name] = held.fill_(value) if isinstance(held, Tensor) else value
