"""The gradient estimate: the momentum, the look-ahead, and parts that a step skips."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from normball import parallel
from normball._numeric import choose_, concrete, host_knows, in_dtype, pieces, step_where_
from normball._scalar import Flag
from normball.optim import packed, validate
from normball.optim.buckets import Bucket, Param
from normball.optim.rounding import Dither, bits, rounded

State = Mapping[Tensor, dict[str, Any]]
"""That of a torch optimizer: a dict for every parameter."""

Dims = tuple[int, ...]


@dataclass(frozen=True)
class Estimator:
    """The momentum `d <- (1 - alpha) d + alpha g` from `d_0 = 0`, and the estimate of a step.

    The estimate is `d`, or with `nesterov` the look-ahead `(1 - alpha) d + alpha g` with the new
    `d`; with `alpha = 1` both are `g`. With `lazy`, a part of a parameter that has a ball of its
    own (a row of a table, an expert of a stack) rests if its gradient is exactly 0: its momentum
    does not change, and its estimate is 0.

    A momentum in bfloat16 or 8 bits is computed in float32, and rounded so that its mean is kept
    (`normball.optim.rounding`); the estimate is then in bfloat16.

    Attributes:
        nesterov: look ahead.
        lazy: let parts rest whose gradient is 0.
        maximize: take `-g` for `g`.
        state_dtype: dtype of the momentum; None for that of the parameter, float32 for 16-bit ones.
            int8 packs parameters of two or more dimensions (`normball.optim.packed`); those of
            fewer keep the default.
        dither: the source of the random bits, for bfloat16 and int8.
    """

    nesterov: bool = False
    lazy: bool = True
    maximize: bool = False
    state_dtype: torch.dtype | None = None
    dither: Dither | None = None

    @classmethod
    def of(
        cls, nesterov: bool, lazy: bool, maximize: bool, state_dtype: torch.dtype | None
    ) -> "Estimator":
        """Return an estimator, with random bits if its dtype needs them."""
        dither = Dither() if state_dtype in (torch.bfloat16, torch.int8) else None
        return cls(nesterov, lazy, maximize, state_dtype, dither)

    def dtype_of(self, p: Tensor) -> torch.dtype:
        """Return the dtype of the estimate of a parameter: of its momentum, unless it is packed."""
        if self.packs(p):
            return torch.bfloat16
        if self.state_dtype not in (None, torch.int8):
            return self.state_dtype
        return torch.float32 if p.dtype.itemsize < 4 else p.dtype

    def packs(self, p: Tensor) -> bool:
        """Tell whether the momentum of a parameter is packed in 8 bits."""
        return self.state_dtype == torch.int8 and p.ndim > 1

    def check_layout(self, name: str, p: Tensor) -> None:
        """Raise ValueError for a parameter sharded in a way that 8 bits do not allow."""
        if self.packs(p):
            parallel.check_rows(name, p)

    def zeros(self, p: Tensor) -> Tensor:
        """Return the momentum of a parameter before its first step, sharded as the parameter."""
        if self.packs(p):
            return parallel.zeros_by_rows(p, packed.shape_of(p.shape)[1], torch.int8)
        return torch.zeros_like(p, dtype=self.dtype_of(p), requires_grad=False)

    def converted(self, p: Tensor, momentum: Tensor) -> Tensor:
        """Return a copy of a momentum, of any format, in that of this estimator."""
        momentum = momentum.to(p.device, copy=True)
        packs, was_packed = self.packs(p), momentum.dtype == torch.int8
        if packs and was_packed:
            return momentum
        if not packs and not was_packed:
            return momentum.to(self.dtype_of(p))
        out, part = self.zeros(p), parallel.local(momentum)
        if packs:
            parallel.local(out).copy_(packed.pack(part.float().flatten(1)))
        else:
            here = parallel.local(out)
            here.copy_(_unpacked(part, here.shape, here.dtype))
        return out

    def fit(self, state: State, params: Sequence[Param]) -> None:
        """Move momenta to the dtype and device of their parameters, which may have changed.

        Raises:
            ValueError: the shape of a parameter has changed, or it is sharded in a way that 8 bits
                do not allow. Nothing is changed.
        """
        for param in params:
            self.check_layout(param.name, param.tensor)
        known = [(param, _kept(state, param)) for param in params]
        kept = [(param, momentum) for param, momentum in known if momentum is not None]
        for param, momentum in kept:
            validate.check_shape(param.name, param.tensor, param.group.norm)
            p = param.tensor
            if momentum.shape != (packed.shape_of(p.shape) if self.packs(p) else p.shape):
                raise ValueError(
                    f"{param.name} has the shape {tuple(p.shape)}, its momentum "
                    f"{tuple(momentum.shape)}: after changing its shape, build a new optimizer"
                )
        for param, momentum in kept:
            p = param.tensor
            dtype = torch.int8 if self.packs(p) else self.dtype_of(p)
            state[p]["momentum"] = momentum.to(p.device, dtype)

    def rest(self, buckets: Sequence[Bucket], grads: Sequence[Tensor], constrained: bool) -> None:
        """Set in every bucket which of its parts have a gradient, the same on all ranks.

        Without momentum, and if not constrained, a part with an estimate of 0 does not move anyway.
        """
        shared: list[tuple[Bucket, Tensor, tuple[slice, ...], parallel.Members]] = []
        for bucket, g in zip(buckets, grads, strict=True):
            bucket.active = None
            dim = bucket.parts_along if self.lazy else None
            if dim is None or (bucket.group.alpha == 1 and not constrained):
                continue
            cut = parallel.cut_of(bucket.first.tensor)
            if cut is None or (cut.boxes and cut.dims <= {dim}):
                bucket.active = _active(g, (0, dim + 1) if bucket.stacked else (dim,))
            elif not cut.boxes:
                whole = bucket.whole(g)
                bucket.active = bucket.part(_found(whole, (dim,)).expand_as(whole))
            else:
                # A rank holds only a piece of each part.
                sizes = [1] * g.ndim
                sizes[dim] = bucket.first.tensor.shape[dim]
                here = g.new_zeros(sizes, dtype=torch.float64)
                place = tuple(cut.slices[i] if i == dim else slice(None) for i in range(g.ndim))
                here[place] = _found(g, (dim,)).double()
                shared.append((bucket, here, place, cut.holders))
        totals = parallel.add_up([s[1] for s in shared], [s[3] for s in shared])
        for (bucket, _, place, _), total in zip(shared, totals, strict=True):
            bucket.active = total[place] > 0

    def take_in(
        self, state: State, buckets: Sequence[Bucket], grads: Sequence[Tensor],
        free: Sequence[bool], finite: Flag,
    ) -> list["Estimate"]:  # fmt: skip
        """Advance every momentum where all is finite, and return the estimates.

        Args:
            state: of the optimizer.
            buckets: those of this step.
            grads: of each, joined.
            free: whether the memory of a gradient may be overwritten.
            finite: whether the step is taken.
        """
        found = []
        for bucket, grad, own in zip(buckets, grads, free, strict=True):
            g, alpha = grad, bucket.group.alpha
            if self.maximize:
                g = g.neg_() if own else -g
            dtype = bucket.dtype
            bucket.room = g if own and g.dtype == dtype else None
            # With alpha = 1 a momentum is kept only if there is one already.
            if alpha == 1 and all(_kept(state, param) is None for param in bucket.params):
                bucket.room = None
                found.append(Estimate(bucket, None, g.to(dtype), finite))
                continue
            d = self.momentum(state, bucket)
            ahead = self.nesterov and alpha < 1
            if self._rounds(bucket):
                self._advance_rounded(bucket, d, g, finite)
            else:
                _advance(bucket, d, in_dtype(g, dtype), finite, None if ahead else bucket.room)
            # A gradient negated in new memory is not kept: it is negated again when it is read.
            kept, turned = (g, False) if own else (grad, self.maximize)
            found.append(Estimate(bucket, d, kept if ahead else None, finite, bucket.room, turned))
        return found

    def took(self, moved: Flag) -> None:
        """Count a step for the rounding, if it moved the weights."""
        if self.dither is not None:
            self.dither.took(moved)

    def _rounds(self, bucket: Bucket) -> bool:
        return self.dither is not None and bucket.dtype == torch.bfloat16

    def _advance_rounded(self, bucket: Bucket, d: Tensor, g: Tensor, finite: Flag) -> None:
        """Advance a momentum in float32 and store it rounded, a piece of memory after the other."""
        assert self.dither is not None
        if finite is False:
            return
        packs, active = self.packs(bucket.first.shard), bucket.active
        factors = self.dither.factors(bucket)
        if g.ndim == 0:
            d, g = d.view(1), g.view(1)
        for rows in pieces(g):
            old, new = d[rows], g[rows].float()
            if packs:
                before = _unpacked(old, new.shape, torch.float32, bucket.stacked)
            else:
                before = old.float()
            weight: float | Tensor = bucket.group.alpha
            moves = None
            if active is not None:
                moves = active[rows] if len(active) > 1 else active
                weight = weight * moves.to(torch.float32)
            new = torch.lerp(before, new, weight)
            random = bits(factors, rows)
            if packs:
                rest = 1 + bucket.stacked
                result = packed.pack(new.flatten(rest), random.flatten(rest))
                # A block has one exponent: where parts are not rows, it is rounded as a whole.
                if moves is not None and moves.shape[rest:].numel() == 1:
                    result = torch.where(moves.flatten(rest), result, old)
            else:
                result = rounded(new, random)
            choose_(old, finite, result, old)

    def momentum(self, state: State, bucket: Bucket) -> Tensor:
        """Return the momentum of a bucket, which shares the memory of the state."""
        rows = [state[param.tensor].get("momentum") for param in bucket.params]
        if bucket.stack is not None and all(a is b for a, b in zip(rows, bucket.rows, strict=True)):
            return bucket.stack
        for param, row in zip(bucket.params, rows, strict=True):
            if row is None:
                state[param.tensor]["momentum"] = self.zeros(param.tensor)
        momenta = [state[param.tensor]["momentum"] for param in bucket.params]
        if not bucket.stacked:
            return parallel.local(momenta[0])
        bucket.stack = torch.stack(momenta)
        bucket.rows = [_on_its_own(row) for row in bucket.stack.unbind()]
        for param, row in zip(bucket.params, bucket.rows, strict=True):
            state[param.tensor]["momentum"] = row
        return bucket.stack

    def last(self, state: State, buckets: Sequence[Bucket]) -> list["Estimate"]:
        """Return the momenta before this step, 0 where a part rests in it.

        They give the direction of the last step: the exact one, or with `nesterov`, whose estimate
        is not kept, that of the momentum.
        """
        return [Estimate(b, self.momentum(state, b), None, True) for b in buckets]


@dataclass
class Estimate:
    """The estimate of one bucket, computed when it is read, so that only one is in memory.

    It is made from `g` alone, `d` alone, or both to look ahead. `room` is the memory of the
    gradient, if it may be written to; `turned` takes `-g` for `g`.
    """

    bucket: Bucket
    d: Tensor | None
    g: Tensor | None
    finite: Flag
    room: Tensor | None = None
    turned: bool = False
    _kept: Tensor | None = None
    """The value, after it was written into the gradient's memory."""

    def forget(self) -> None:
        """Free what the estimate is made from, a copy of gradients if they are stacked."""
        self.d = self.g = None

    def value(self) -> Tensor:
        """Return the estimate; its memory may be that of the momentum, or `room`.

        `bucket.fresh` is set if it is in new memory, which the update can then reuse.
        """
        bucket, d, g = self.bucket, self.d, self.g
        bucket.fresh = False
        if self._kept is not None:
            return self._kept
        if d is None:
            assert g is not None
            return g
        kept = d
        if d.dtype == torch.int8:
            shape = bucket.first.shard.shape
            shape = torch.Size((len(d), *shape)) if bucket.stacked else shape
            d = _unpacked(d, shape, torch.bfloat16, bucket.stacked)
        e = d if g is None or self.finite is False else self._ahead(d, g)
        if bucket.active is not None:
            e = torch.mul(e, bucket.active.to(e.dtype), out=self.room if e is kept else e)
        if e is self.room:
            self._kept = e
        else:
            bucket.fresh = e is not kept
        return e

    def rows(self, rows: slice) -> Tensor:
        """Return some rows of the estimate of a single parameter, from their rows alone."""
        d, g = (None if x is None else x[rows] for x in (self.d, self.g))
        return Estimate(self.bucket.some_rows(rows), d, g, self.finite, None, self.turned).value()

    def _ahead(self, d: Tensor, g: Tensor) -> Tensor:
        """Return `(1 - alpha) d + alpha g`, or `d` where not all is finite, not in its memory."""
        new = in_dtype(g, d.dtype)
        if self.turned:
            new = -new if new is g else new.neg_()
        room = new if self.room is None and new is not g else self.room
        e = torch.lerp(d, new, self.bucket.group.alpha, out=room)
        if isinstance(self.finite, Tensor):
            torch.where(self.finite.to(d.device), e, d, out=e)
        return e


class Values(Sequence[Tensor]):
    """The estimates as tensors, each computed when it is read, so that only one is in memory."""

    def __init__(self, estimates: Sequence[Estimate]) -> None:
        self._estimates = estimates

    def __len__(self) -> int:
        return len(self._estimates)

    def __getitem__(self, index: Any) -> Any:
        return self._estimates[index].value()


def _on_its_own(row: Tensor) -> Tensor:
    """Return a tensor in the memory of `row` that is saved alone, without what lies beside it."""
    if row.device.type not in ("cpu", "cuda") or not concrete(row):
        return row
    return torch.from_dlpack(row)  # type: ignore[attr-defined]


def _advance(bucket: Bucket, d: Tensor, g: Tensor, finite: Flag, room: Tensor | None) -> None:
    """Write the new momentum where all is finite and the part does not rest; may use `room`."""
    alpha = bucket.group.alpha
    if bucket.active is None and step_where_([d], [g], alpha, finite, to=True):
        return
    weight = alpha if bucket.active is None else alpha * bucket.active.to(d.dtype)
    if isinstance(finite, Tensor):
        torch.where(finite.to(d.device), torch.lerp(d, g, weight, out=room), d, out=d)
    elif finite:
        d.lerp_(g, weight)


def _unpacked(d: Tensor, shape: torch.Size, dtype: torch.dtype, stacked: bool = False) -> Tensor:
    """Return a packed momentum, or a stack of some, as a tensor of this shape."""
    return packed.unpack(d, shape[1 + stacked :].numel(), dtype).reshape(shape)


def _kept(state: State, param: Param) -> Tensor | None:
    momentum: Tensor | None = state.get(param.tensor, {}).get("momentum")
    return momentum


def _active(g: Tensor, kept: Dims) -> Tensor | None:
    """Return which parts of a gradient have an entry other than 0; None if the host knows: all."""
    if not host_knows(g):
        return _found(g, kept)
    # In a dense gradient, one entry of every part is enough to tell.
    corner = g[tuple(slice(None) if i in kept else slice(1) for i in range(g.ndim))]
    if bool((corner != 0).all()):
        return None
    active = _found(g, kept)
    return None if bool(active.all()) else active


def _found(g: Tensor, kept: Dims) -> Tensor:
    """Return whether a part, over the dimensions not kept, has an entry that is not 0."""
    return torch.any(g != 0, tuple(i for i in range(g.ndim) if i not in kept), keepdim=True)
