"""The parameters of one step, small equal ones together in a bucket."""

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from operator import is_
from typing import Any

import torch
from torch import Tensor

from normball import parallel
from normball._numeric import choose_, host_knows, pieces
from normball._scalar import Flag
from normball.norms import Norm

# Up to this many entries the launch of an operation costs more than its arithmetic: 128 x 128 on a
# CPU, where products of larger matrices gain nothing from a batch; 4096 x 4096 on a GPU, where the
# weights of a stack are written in place and only its gradients are copied.
_SMALL = {"cpu": 2**14, "cuda": 2**24}
# On other devices, and where a copy of large gradients would undo the reuse of their memory.
_SMALL_ELSEWHERE = 2**20
_MOST_TOGETHER = 2**26


@dataclass(slots=True)
class ParamGroup:
    """What a step reads from a parameter group of the optimizer, every time again."""

    index: int
    norm: Norm
    alike: int
    """The first group with the same norm and numbers."""
    radius: float = 1.0
    longest: float | Tensor = 0.0
    """The length, or the share of the way, of the longest step; 0-d if a tensor."""
    alpha: float = 1.0


@dataclass(slots=True)
class Param:
    """One parameter with a gradient.

    `tensor` is the parameter as the optimizer has it, a DTensor if it is sharded. `shard` is this
    rank's part of it, on one device all of it, and `grad` that of its gradient; it is there only
    during a step.
    """

    name: str
    tensor: Tensor
    shard: Tensor
    grad: Tensor
    group: ParamGroup
    counted: bool = True
    """False for a copy of a parameter that another stage of a pipeline counts."""

    @property
    def sharded(self) -> bool:
        """Whether this rank holds a part of the parameter."""
        return self.shard is not self.tensor

    def kind(self, tight: bool) -> Hashable:
        """Return a key that is equal for parameters that a step can stack; None for a large one."""
        x = self.shard
        most = _SMALL.get(x.device.type, _SMALL_ELSEWHERE)
        if tight:
            most = min(most, _SMALL_ELSEWHERE)
        if self.sharded or x.numel() > most:
            return None
        return self.group.alike, x.shape, x.dtype, x.device, self.grad.dtype, self.counted


@dataclass
class Bucket:
    """Parameters of equal groups and shapes, in tensors stacked along a new dimension.

    A single parameter is used as it is, without a copy. `room` is memory that the update may be
    written to: of the shape of this rank's part and the dtype of the estimate, and perhaps the
    estimate's own memory. `fresh` says that the update may be written to the estimate read last.
    `active` says which parts of this rank's tensor do not rest, with size 1 in the dimensions
    inside a part; None means all.
    """

    params: list[Param]
    first: Param = field(init=False)
    """The first parameter, whose shape is that of all."""
    group: ParamGroup = field(init=False)
    """Its group, whose numbers are those of all."""
    stacked: bool = field(init=False)
    """Whether tensors of this bucket have a leading dimension over its parameters."""
    parts_along: int | None = field(init=False)
    """The dimension along which the parts of a parameter have a ball each, if any."""
    by_rows: bool = field(init=False)
    """Whether this is a large table, of which every row has a ball of its own."""
    size: int = field(init=False)
    """The number of entries, of all ranks."""
    dtype: torch.dtype = torch.float32
    """That of the estimate."""
    groups: Tensor | None = None
    """The group's number of every parameter, shape `(k,)`; None if all are of one group."""
    room: Tensor | None = None
    fresh: bool = False
    active: Tensor | None = None
    rows: list[Tensor] = field(default_factory=list)
    """The momenta of several parameters, as the state has them: rows of one tensor."""
    stack: Tensor | None = None
    """That tensor."""
    seeds: Tensor | None = None
    """A number for every index of every dimension, for the rounding; shape `(k, indices)`."""
    new: Tensor | None = None
    """The new values, or the updates, of several parameters."""
    new_rows: list[Tensor] = field(default_factory=list)
    """Views of `new`, one for each; kept between steps if small: views cost as much as copies."""

    def __post_init__(self) -> None:
        self.first, self.stacked = self.params[0], len(self.params) > 1
        self.group = self.first.group
        norm, shape = self.group.norm, self.first.tensor.shape
        lines = norm.lines(shape)
        free = norm.free(shape) if lines is None else frozenset(range(len(shape))) - lines[0]
        self.parts_along = min(free) if free and len(shape) > 1 else None
        self.by_rows = self._are_rows_apart(lines)
        self.size = shape.numel() * len(self.params)

    def _are_rows_apart(self, lines: tuple[frozenset[int], float] | None) -> bool:
        x = self.first.shard
        if self.stacked or lines is None or 0 in lines[0] or not x.ndim or len(pieces(x)) < 2:
            return False
        return self.group.norm.lines(torch.Size((1, *x.shape[1:]))) == lines  # also one alone

    @property
    def shards(self) -> list[Tensor]:
        """This rank's parts of the parameters."""
        return [param.shard for param in self.params]

    def some_rows(self, rows: slice) -> "Bucket":
        """Return some rows of a single parameter, as a bucket that shares their memory."""
        assert not self.stacked
        active = self.active
        if active is not None and len(active) > 1:
            active = active[rows]
        shard, grad = self.first.shard[rows], self.first.grad[rows]
        return Bucket([replace(self.first, shard=shard, grad=grad)], active=active)

    def whole(self, x: Tensor) -> Tensor:
        """Return all of the tensor of which `x`, joined, is this rank's part."""
        return parallel.whole(x, self.first.tensor) if self.first.sharded else x

    def part(self, x: Tensor) -> Tensor:
        """Return this rank's part of a whole tensor, joined."""
        return parallel.part_of(x, self.first.tensor) if self.first.sharded else x

    def join(self, tensors: Sequence[Tensor]) -> Tensor:
        """Return one tensor for each parameter as the bucket's one tensor."""
        return torch.stack(list(tensors)) if self.stacked else tensors[0]

    def rows_of(self, update: Tensor) -> list[Tensor]:
        """Return the bucket's one tensor as one for each parameter."""
        if not self.stacked:
            return [update]
        if not host_knows(update):
            return list(update.unbind())
        self._room_like(update).copy_(update)
        return self.new_rows

    def keep_(self, new: Tensor, old: Tensor, finite: Flag) -> None:
        """Write `new` to the parameters where `finite` holds; else keep all bits.

        `old` is what `join(parameters)` gave.
        """
        if not self.stacked:
            choose_(self.first.shard, finite, new, old)
            return
        choose_(self._room_like(old), finite, new, old)
        torch._foreach_copy_(self.shards, self.new_rows)

    def _room_like(self, x: Tensor) -> Tensor:
        if self.new is None or self.new.dtype != x.dtype:
            self.new = torch.empty_like(x)
            self.new_rows = list(self.new.unbind())
        return self.new

    def leave(self) -> None:
        """Free what only a step needs."""
        self.room = self.active = None
        if self.first.shard.numel() > _SMALL["cpu"]:
            self.new, self.new_rows = None, []


def buckets_of(params: Sequence[Param], tight: bool) -> list[Bucket]:
    """Group small parameters of one kind, in order of first appearance; large ones stay alone.

    With `tight`, fewer are small.
    """
    lists: list[list[Param]] = []
    last: dict[Hashable, list[Param]] = {}
    for param in params:
        kind = param.kind(tight)
        alike = None if kind is None else last.get(kind)
        if alike is None or (len(alike) + 1) * param.shard.numel() > _MOST_TOGETHER:
            alike = []
            lists.append(alike)
            if kind is not None:
                last[kind] = alike
        alike.append(param)
    found = [Bucket(alike) for alike in lists]
    for bucket in found:
        groups = [param.group.index for param in bucket.params]
        if len(set(groups)) > 1:
            bucket.groups = torch.tensor(groups, device=bucket.first.shard.device)
    return found


def _kind_of(p: Tensor, grad: Tensor | None) -> Hashable:
    """Return what a roster assumes of a parameter; None for one without a gradient."""
    return None if grad is None else (p.shape, p.dtype, p.device, grad.dtype)


def _firsts(keys: Sequence[Hashable]) -> list[int]:
    """Return for every key the place of the first one that is equal."""
    # A compiler would fix the numbers in the keys.
    if len(keys) == 1 or torch.compiler.is_compiling():
        return list(range(len(keys)))
    first: dict[Hashable, int] = {}
    return [first.setdefault(key, i) for i, key in enumerate(keys)]


def _numbers(group: Mapping[str, Any]) -> Hashable:
    """Return radius, lr and alpha; equal tensors are the same one, since values are not read."""
    lr = group["lr"]
    return group["radius"], id(lr) if isinstance(lr, Tensor) else lr, group["alpha"]


class Roster:
    """The parameters in a step, kept while the same parameters of the same groups have gradients.

    To examine a parameter again costs more than the arithmetic on a small one.
    """

    def __init__(self, names: Sequence[str], groups: Sequence[Mapping[str, Any]]) -> None:
        self._params = [p for group in groups for p in group["params"]]
        self._sizes = [len(group["params"]) for group in groups]
        self._kinds = [_kind_of(p, p.grad) for p in self._params]
        self._norms = [group["norm"] for group in groups]
        # Norms are compared once: the repr of a norm of one's own can be costly.
        self._equal_norms = _firsts(self._norms)
        self._groups = [
            ParamGroup(i, norm, first)
            for i, (norm, first) in enumerate(zip(self._norms, self._alike(groups), strict=True))
        ]
        of = [g for g, n in zip(self._groups, self._sizes, strict=True) for _ in range(n)]
        self.missing = [n for n, kind in zip(names, self._kinds, strict=True) if kind is None]
        self._places = [i for i, p in enumerate(self._params) if self._kinds[i] and p.numel()]
        self.params: list[Param] = []
        for i in self._places:
            p = self._params[i]
            part = parallel.local(p)
            self.params.append(Param(names[i], p, part, p.grad, of[i]))
        self.sharded = any(param.sharded for param in self.params)
        self.buckets: list[Bucket] = []
        self.limit = torch.finfo(torch.float64).max / 2

    def enter(self, groups: Sequence[Mapping[str, Any]], longest: Callable[..., Any]) -> bool:
        """Read the settings of the groups, their longest steps, and the gradients.

        Returns:
            False if the roster no longer fits: the groups have other parameters, other parameters
            have gradients, one has another shape, dtype or device (`model.float()` keeps a
            parameter and changes its data), a group has another norm, or other groups than before
            have equal settings.

        Raises:
            ValueError: a gradient is sparse.
        """
        params = [p for group in groups for p in group["params"]]
        grads = [p.grad for p in params]
        if (
            len(params) != len(self._params)
            or any(p is not q for p, q in zip(params, self._params, strict=True))
            or [_kind_of(p, g) for p, g in zip(params, grads, strict=True)] != self._kinds
            or [len(group["params"]) for group in groups] != self._sizes
            or not all(map(is_, [group["norm"] for group in groups], self._norms))
            or self._alike(groups) != [own.alike for own in self._groups]
        ):
            return False
        for own, group in zip(self._groups, groups, strict=True):
            own.radius, own.alpha = group["radius"], group["alpha"]
            own.longest = longest(group)
        present = [grads[place] for place in self._places]
        if {grad.layout for grad in present} - {torch.strided}:
            self._refuse_sparse(present)
        for param, grad in zip(self.params, present, strict=True):
            param.grad = grad
        if self.sharded:
            for param in self.params:
                if param.sharded:
                    param.shard = parallel.local(param.tensor)
                    param.grad = parallel.local(parallel.aligned(param.grad, param.tensor))
        return True

    def set_dtypes(self, dtype_of: Callable[[Tensor], torch.dtype]) -> None:
        """Keep the dtypes of the estimates, and the largest gradient entry that they allow."""
        for bucket in self.buckets:
            bucket.dtype = dtype_of(bucket.first.shard)
            # Its difference to a momentum must not overflow.
            self.limit = min(self.limit, torch.finfo(bucket.dtype).max / 2)

    def _alike(self, groups: Sequence[Mapping[str, Any]]) -> list[int]:
        """Return for every group the first group with the same norm, radius, lr and alpha."""
        return _firsts(list(zip(self._equal_norms, map(_numbers, groups), strict=True)))

    def _refuse_sparse(self, grads: Sequence[Tensor]) -> None:
        for param, grad in zip(self.params, grads, strict=True):
            if grad.layout is not torch.strided:
                raise ValueError(
                    f"{param.name} has a gradient of layout {grad.layout}: use dense gradients "
                    "(sparse=False in torch.nn.Embedding)"
                )

    def leave(self) -> None:
        """Drop the references to gradients, so that the training loop can free them."""
        for param in self.params:
            del param.grad
        for bucket in self.buckets:
            bucket.leave()
