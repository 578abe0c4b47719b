"""Warnings about a training that stands still; each is given once."""

import warnings
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from normball._numeric import concrete, host_knows
from normball.optim.buckets import Roster
from normball.optim.capture import recording
from normball.optim.metrics import Record

# Steps from one look at the counts to the next.
_EVERY = 10


class Watch:
    """Looks at the steps of an optimizer, without waiting for a device.

    Args:
        model: a weak reference to the model of which the optimizer has all parameters, or None.
    """

    def __init__(self, model: Any = None) -> None:
        self._model = model
        self._said: set[str] = set()
        self._calls = 0
        self._counts = [0.0] * 4
        self._since = 0
        self._marks: list[float] = []
        self._copy: tuple[Tensor, Any, int] | None = None

    def look(
        self,
        roster: Roster,
        params: Callable[[], Iterable[Tensor]],
        staged: bool,
        record: Record,
        joint: bool,
    ) -> None:
        """Look at a step before it changes anything.

        Args:
            roster: the parameters with gradients.
            params: returns all of the optimizer.
            staged: whether other ranks hold other parameters.
            record: of the steps before this one.
            joint: whether the length of a step depends on all layers together.
        """
        self._calls += 1
        if not roster.params and not staged:
            self._say(
                "none",
                "no parameter of this optimizer has a gradient, so its steps change nothing. Was "
                "backward() called, on a loss of these parameters? Were parameters replaced after "
                "the optimizer was built, as to_empty() and some wrappers do? Then build it anew",
            )
        if self._calls <= 2 and joint and _in_backward() and len(list(params())) == 1:
            self._say(
                "backward",
                "step() is called during backward() by an optimizer of one parameter: the dual "
                "norm and its threshold are then those of this parameter alone, not of all layers. "
                "Use one optimizer over all parameters after backward(), or Scion, whose steps do "
                "not depend on other layers",
            )
        # Models and gradients are looked through at steps 10, 20, 40, 80, ...
        tens, rest = divmod(self._calls, _EVERY)
        if rest or recording():
            return
        counts = record.counts
        if tens & (tens - 1) == 0:
            self._look_outside(params())
            whole = roster.params and not roster.sharded and not staged
            if joint and whole:
                marks = _marks([param.grad for param in roster.params])
                counts = torch.cat([counts, marks.to(counts)])
        self._look_at_counts(counts)

    def _look_outside(self, params: Iterable[Tensor]) -> None:
        model = self._model() if self._model is not None else None
        if model is None or "outside" in self._said:
            return
        held = set(map(id, params))
        out = [n for n, p in model.named_parameters() if p.grad is not None and id(p) not in held]
        if out:
            names = ", ".join(out[:5]) + (", ..." if len(out) > 5 else "")
            self._say(
                "outside",
                f"{len(out)} of the model's parameters have a gradient, but this optimizer does "
                f"not hold them, so they do not train: {names}. To add them, call "
                "optimizer.add_new(param_groups(model))",
            )

    def _look_at_counts(self, counts: Tensor) -> None:
        if host_knows(counts):
            self._compare(counts.tolist(), self._calls - 1)
        elif counts.device.type == "cuda" and concrete(counts):
            if self._copy is not None and self._copy[1].query():
                self._compare(self._copy[0].tolist(), self._copy[2])
                self._copy = None
            if self._copy is None:
                copy = torch.empty(counts.shape, dtype=counts.dtype, pin_memory=True)
                copy.copy_(counts, non_blocking=True)
                event = torch.cuda.Event()  # type: ignore[no-untyped-call]
                event.record()
                self._copy = copy, event, self._calls - 1

    def _compare(self, counts: list[float], calls: int) -> None:
        """Warn of what all calls since the last comparison have in common."""
        self._compare_marks(counts[4:])
        steps, self._since = calls - self._since, calls
        before, self._counts = self._counts, counts
        skipped, outside = counts[2] - before[2], counts[3] - before[3]
        if steps and skipped == steps:
            self._say(
                "skipped",
                f"the last {steps} steps were skipped: a gradient was not finite, or lr or rho in "
                "a tensor was out of range. The weights do not change. Look at the loss and at its "
                "input; torch.autograd.detect_anomaly() finds the operation",
            )
        if steps and outside == steps:
            self._say(
                "outside the ball",
                f"the gap of the last {steps} steps was negative, so they had no length. A layer "
                "is outside its ball, where something other than this optimizer has put it: "
                "normball.balls.project_(optimizer) scales it back",
            )

    def _compare_marks(self, marks: list[float]) -> None:
        """Warn if other gradients than at the last look have the same Euclidean norm."""
        if not marks:
            return
        before, self._marks = self._marks, marks
        if before and marks[0] > 0:
            same = abs(before[0] / marks[0] - 1) < 1e-5
            if same and abs(before[1] - marks[1]) > 1e-3 * marks[0]:
                self._say(
                    "clipped before",
                    f"gradients of different steps have the same Euclidean norm, {marks[0]:.4g}: "
                    "something clips them before the optimizer, so that its threshold sees scaled "
                    "ones. Switch that off: max_grad_norm=0 in Hugging Face's TrainingArguments, "
                    "gradient_clip_val=None in Lightning, no clip_grad_norm_ in a loop",
                )

    def _say(self, what: str, text: str) -> None:
        if what not in self._said:
            self._said.add(what)
            warnings.warn(text, stacklevel=5)

    def __getstate__(self) -> dict[str, Any]:
        # References to the model and to device memory belong to this object alone.
        return self.__dict__ | {"_model": None, "_copy": None}


def _marks(grads: list[Tensor]) -> Tensor:
    """Return the Euclidean norm of all gradients together, and the sum of their entries."""
    device = grads[0].device
    norms = torch.stack([torch.linalg.vector_norm(g.float()).to(device) for g in grads])
    sums = torch.stack([g.float().sum().to(device) for g in grads])
    return torch.stack([torch.linalg.vector_norm(norms), sums.sum()])


def _in_backward() -> bool:
    """Tell whether autograd is running a backward pass in this thread."""
    return bool(torch._C._current_graph_task_id() != -1)
