"""Minimisers of layers whose gradients are complete, computed while the backward pass runs.

A step does not need any of this. It takes what is ready, and computes the rest.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any

import torch
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from normball import parallel
from normball._numeric import host_knows
from normball.optim.buckets import Bucket, Roster
from normball.optim.estimate import Estimate, Estimator, State
from normball.optim.geometry import Geometry, Layers
from normball.optim.update import Update


@dataclass(frozen=True)
class Maker:
    """How a step computes the update of a bucket.

    Attributes:
        state: of the optimizer.
        groups: its parameter groups, checked.
        corner: whether updates need their corners.
        reuse_grad: whether a step writes into the gradients.
    """

    state: State
    groups: Sequence[Mapping[str, Any]]
    estimator: Estimator
    geometry: Geometry
    constrained: bool
    corner: bool
    reuse_grad: bool

    def bucket(self, known: Bucket) -> Bucket:
        """Return a bucket of the same parameters, with their gradients and settings of now."""
        group = replace(known.group)
        group.alpha, group.radius = (self.groups[group.index][key] for key in ("alpha", "radius"))
        params = []
        for param in known.params:
            assert param.tensor.grad is not None
            params.append(replace(param, grad=param.tensor.grad, group=group))
        return replace(
            known, params=params, room=None, active=None, rows=[], stack=None, new=None, new_rows=[]
        )

    def frees(self, bucket: Bucket) -> bool:
        """Tell whether a step may write into the gradient of this bucket."""
        return self.reuse_grad and not bucket.stacked

    def update(self, bucket: Bucket) -> Update:
        """Return the update as a step computes it, from copies of what a step would write to."""
        free, state = self.frees(bucket), dict[Tensor, dict[str, Any]]()
        for param in bucket.params:
            kept = self.state.get(param.tensor, {}).get("momentum")
            # Those of several parameters are copied when they are stacked.
            copied = kept if kept is None or bucket.stacked else kept.clone()
            state[param.tensor] = {} if copied is None else {"momentum": copied}
        grad = bucket.join([param.grad for param in bucket.params])
        grads = [grad.clone() if free else grad]
        self.estimator.rest([bucket], grads, self.constrained)
        estimates = self.estimator.take_in(state, [bucket], grads, [free], True)
        ((_, update),) = self.geometry.updates([bucket], estimates, self.constrained, self.corner)
        return update

    def sources(self, bucket: Bucket) -> "_Sources":
        """Return what the update is computed from."""
        tensors: list[Tensor | None] = []
        for param in bucket.params:
            tensors += [param.tensor.grad, self.state.get(param.tensor, {}).get("momentum")]
            if self.constrained:
                tensors.append(param.tensor)
        group = bucket.group
        versions = [None if x is None else x._version for x in tensors]
        return _Sources(tensors, versions, (group.alpha, group.radius, self.frees(bucket)))


@dataclass
class _Sources:
    """Tensors, how often each was written to, and numbers."""

    tensors: list[Tensor | None]
    versions: list[int | None]
    numbers: tuple[float, float, bool]

    def same(self, other: "_Sources") -> bool:
        """Tell whether nothing has changed, as far as torch's version counters show it."""
        return (
            len(self.tensors) == len(other.tensors)
            and all(a is b for a, b in zip(self.tensors, other.tensors, strict=True))
            and (self.versions, self.numbers) == (other.versions, other.numbers)
        )


class Overlap(AbstractContextManager["Overlap"]):
    """Computes updates in a thread of its own, from the gradients that a backward pass completes.

    Only layers whose norm needs the whole matrix: the minimisers of all others are cheap.

    Args:
        roster: that of the last step.
        maker: computes an update.
    """

    def __init__(self, roster: Roster, maker: Maker) -> None:
        self._roster, self._maker = roster, maker
        self._places = {
            param.tensor: i
            for i, bucket in enumerate(roster.buckets)
            if bucket.group.norm.lines(bucket.first.tensor.shape) is None
            for param in bucket.params
            if param.tensor.requires_grad
        }
        self._waiting: dict[int, set[Tensor]] = {}
        self._begun: dict[int, tuple[_Sources, Future[Update]]] = {}
        self._handles: list[RemovableHandle] = []
        self._pool = ThreadPoolExecutor(1, "normball-overlap")

    def __enter__(self) -> "Overlap":
        for p in self._places:
            handle = p.register_post_accumulate_grad_hook(self._arrived)  # type: ignore[no-untyped-call]
            self._handles.append(handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:  # fmt: skip
        for handle in self._handles:
            handle.remove()
        self._pool.shutdown(wait=False)
        if kind is not None:
            self.drop()

    def _arrived(self, p: Tensor) -> None:
        """Begin the update of a bucket once all its gradients have come."""
        i = self._places[p]
        bucket = self._roster.buckets[i]
        waiting = self._waiting.setdefault(i, {param.tensor for param in bucket.params})
        waiting.discard(p)
        if waiting:
            return
        del self._waiting[i]
        if i in self._begun:  # by the pass of an earlier microbatch
            self._begun[i][1].cancel()
        own = self._maker.bucket(bucket)
        # What is read here and written to later is seen to have changed.
        sources = self._maker.sources(own)
        self._begun[i] = sources, self._pool.submit(self._compute, own)

    def _compute(self, bucket: Bucket) -> Update:
        with torch.no_grad():
            return self._maker.update(bucket)

    def take(self, roster: Roster, free: Sequence[bool], finite: bool) -> dict[int, Update]:
        """Return the updates that hold for this step, by the number of their bucket.

        Nothing runs afterwards: a step writes to what an update is computed from.

        Args:
            roster: that of this step.
            free: for every bucket, whether the memory of its gradient may be overwritten.
            finite: whether the step is taken.
        """
        running = {i: begun for i, begun in self._begun.items() if not begun[1].cancel()}
        wait(future for _, future in running.values())
        self._begun = {}
        if roster is not self._roster or not finite or torch.is_autocast_enabled("cpu"):
            return {}
        return {
            i: future.result()
            for i, (sources, future) in running.items()
            if free[i] == sources.numbers[-1]
            and sources.same(self._maker.sources(roster.buckets[i]))
        }

    def drop(self) -> None:
        """Forget what was computed."""
        for _, future in self._begun.values():
            future.cancel()
        self._begun = {}


def completed(
    ready: Mapping[int, Update], geometry: Geometry, buckets: Sequence[Bucket],
    estimates: Sequence[Estimate], constrained: bool, corner: bool,
) -> Iterator[tuple[int, Update]]:  # fmt: skip
    """Yield the number and the update of every bucket: those that are ready, then the others."""
    yield from ready.items()
    rest = [i for i in range(len(buckets)) if i not in ready]
    others = geometry.updates(
        [buckets[i] for i in rest], [estimates[i] for i in rest], constrained, corner
    )
    for k, update in others:
        yield rest[k], update


def check(geometry: Geometry, captured: bool, params: Iterable[Tensor]) -> None:
    """Raise where an update of one layer alone cannot be that of the step.

    Args:
        geometry: of the optimizer.
        captured: whether steps are.
        params: all of the optimizer.

    Raises:
        RuntimeError: always then, with what to do instead.
    """
    way = "call backward() outside of overlap_backward(); step() then computes everything"
    if not isinstance(geometry, Layers):
        raise RuntimeError(
            f"one norm over all parameters has no minimiser until all gradients are there: {way}"
        )
    if not parallel.alone():
        raise RuntimeError(
            f"with several ranks a gradient is complete only after ranks have averaged it: {way}"
        )
    if captured:
        raise RuntimeError(f"a captured step computes everything each time it is replayed: {way}")
    for p in params:
        if parallel.is_sharded(p):
            raise RuntimeError(f"a parameter of shape {tuple(p.shape)} is sharded: {way}")
        if not host_knows(p):
            raise RuntimeError(
                f"a parameter of shape {tuple(p.shape)} is on {p.device}: only CPUs have cores to "
                f"spare, and a GPU has no part that rests: {way}"
            )
