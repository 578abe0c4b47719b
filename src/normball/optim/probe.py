"""Measured smoothness: the (L0, L1) of a network's loss along its own training."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from normball import parallel
from normball._numeric import as_working, saturate, split_scale
from normball._scalar import wide
from normball.optim.base import NormBallOptimizer
from normball.optim.buckets import Bucket, Param


@dataclass(frozen=True)
class Fit:
    """The line `L = L0 + L1 ||grad f||*` through measured pairs, with intervals.

    Attributes:
        l0: intercept, in units of the loss per squared unit of the norm; at least 0.
        l1: slope, per unit of the norm; at least 0.
        l0_interval: the 5 % and 95 % points of `l0` over resampled pairs.
        l1_interval: the same for `l1`.
        correlation: Spearman's rank correlation of the pairs, in [-1, 1]; NaN where the values of
            one side are all equal.
        count: number of pairs.
    """

    l0: float
    l1: float
    l0_interval: tuple[float, float]
    l1_interval: tuple[float, float]
    correlation: float
    count: int

    def rho(self, lr: float) -> float:
        """Return the threshold `lr * L0`, at which the step size of the theory is `1 / L0`."""
        return lr * self.l0


@dataclass(frozen=True)
class _Sample:
    """What one step gave: first over all layers, then for every group; `layers` by `names`."""

    step: int
    dual: Tensor
    smoothness: Tensor
    names: list[str]
    layers: Tensor


class SmoothnessProbe:
    """Measures `L_k = ||g(x') - g(x)||* / ||x' - x||` across steps of an optimizer, on one batch.

    It takes three lines in any training loop with a closure, and no change of the model:

        probe = SmoothnessProbe(optimizer, every=10)
        ...
        loss = probe.step(closure)     # in place of optimizer.step(closure)
        ...
        print(probe.fit())

    Once in `every` steps the probe calls the closure again after the step, on the same batch and
    with the same random numbers. It measures in the norms of the optimizer: over all layers, for
    each group and for each parameter. Such a step costs one more forward and backward pass, two
    minimisers and one norm of every parameter, and copies that take twice the weights' memory. It
    takes about as long as two steps where the network's passes are the cost, and three to five
    where the minimisers are. Small equal layers are measured together, as the optimizer steps them.
    The training itself is unchanged, bit for bit, if the closure has no state of its own. Give
    `model` if it has buffers that a forward pass changes (batch norm).

    Args:
        optimizer: of this package.
        every: measure at the first step and then once in so many steps; at least 1.
        model: its buffers are restored after a measurement.

    Raises:
        TypeError: another kind of optimizer.
        ValueError: `every` below 1.

    Examples:
        >>> import torch
        >>> from normball import GGNC, SmoothnessProbe
        >>> from normball.norms import Euclidean
        >>> w = torch.nn.Parameter(torch.tensor([3.0, 4.0]))
        >>> optimizer = GGNC([w], gamma=0.1, rho=1.0, norm=Euclidean())
        >>> probe = SmoothnessProbe(optimizer, every=1)
        >>> def closure():
        ...     optimizer.zero_grad()
        ...     loss = w.square().sum()  # its gradient is 2 w, so L0 = 2
        ...     loss.backward()
        ...     return loss
        >>> losses = [probe.step(closure) for _ in range(5)]
        >>> round(probe.fit().l0, 2)
        2.0
    """

    def __init__(
        self, optimizer: NormBallOptimizer, *, every: int = 10, model: nn.Module | None = None
    ) -> None:
        if not isinstance(optimizer, NormBallOptimizer):
            raise TypeError(
                f"the probe measures in the norms of a normball optimizer, not in those of "
                f"{type(optimizer).__name__}"
            )
        if not (isinstance(every, int) and every >= 1):
            raise ValueError(f"every={every!r} must be a whole number of at least 1")
        self.optimizer = optimizer
        self.every = every
        self._model = model
        self._steps = 0
        self._samples: list[_Sample] = []

    def step(self, closure: Callable[[], Tensor]) -> Tensor:
        """Take one step of the optimizer, and measure across it when a measurement is due.

        Args:
            closure: clears the gradients, computes the loss, calls `backward`, returns the loss.

        Returns:
            The loss before the step.

        Raises:
            ValueError: a measurement is due, and the closure left no gradient.
            RuntimeError: the averaged weights are in the model.
        """
        self.optimizer._check_mode()
        due = self._steps % self.every == 0
        self._steps += 1
        before = _random_state() if due else None
        with torch.enable_grad():
            loss = closure()
        if before is None:
            self.optimizer.step()
            return loss
        roster = self.optimizer._collect()
        params, buckets = roster.params, roster.buckets
        if not params:
            raise ValueError("the closure left no gradient: it must call backward on its loss")
        if any(parallel.is_sharded(param.tensor) for param in params):
            raise TypeError(
                "the probe measures parameters that are whole on every rank, not shards"
            )
        shards = [param.shard for param in params]
        old = [x.detach().clone() for x in shards]
        gradients = [param.grad.clone() for param in params]
        after = _random_state()
        self.optimizer.step()
        buffers = [] if self._model is None else list(self._model.buffers())
        kept = [buffer.clone() for buffer in buffers]
        _set_random_state(before)
        with torch.enable_grad():
            closure()
        _set_random_state(after)
        with torch.no_grad():
            moves = [x - start for x, start in zip(shards, old, strict=True)]
            turns = [
                g if x.grad is None else x.grad - g for x, g in zip(shards, gradients, strict=True)
            ]
            self._keep(params, buckets, gradients, turns, moves)
            for buffer, value in zip(buffers, kept, strict=True):
                buffer.copy_(value)
            for x, gradient in zip(shards, gradients, strict=True):
                x.grad = gradient
        return loss

    def _keep(
        self,
        params: Sequence[Param],
        buckets: Sequence[Bucket],
        gradients: Sequence[Tensor],
        turns: Sequence[Tensor],
        moves: Sequence[Tensor],
    ) -> None:
        """Keep the dual norms and L of one step: over all layers, every group, every parameter."""
        places = {id(param): place for place, param in enumerate(params)}
        rows = [[places[id(param)] for param in bucket.params] for bucket in buckets]
        # From the order of the buckets to that of the parameters.
        order = torch.tensor([place for row in rows for place in row]).argsort()

        def joined(tensors: Sequence[Tensor]) -> list[Tensor]:
            return [b.join([tensors[i] for i in row]) for b, row in zip(buckets, rows, strict=True)]

        dual = self._duals(buckets, joined(gradients))
        order = order.to(dual.device)
        dual, turn = dual[order], self._duals(buckets, joined(turns))[order]
        length = self._lengths(buckets, joined(moves)).expand_as(dual)[order]
        # One line for all layers and one for each group: the parameters that belong to it.
        groups = torch.tensor([param.group.index for param in params], device=dual.device)
        numbers = torch.arange(-1, len(self.optimizer.param_groups), device=dual.device)
        member = (groups == numbers[:, None]) | (numbers[:, None] < 0)
        sums, changes, longest = (torch.where(member, x, 0) for x in (dual, turn, length))
        self._samples.append(
            _Sample(
                step=self._steps - 1,
                dual=sums.sum(1),
                smoothness=changes.sum(1) / longest.amax(1),
                names=[param.name for param in params],
                layers=torch.stack([dual, turn / length]),
            )
        )

    def _duals(self, buckets: Sequence[Bucket], tensors: Sequence[Tensor]) -> Tensor:
        """Return the dual norm of each parameter times its radius, by bucket, shape `(n,)`."""
        tensors = [as_working(d) if b.stacked else d for b, d in zip(buckets, tensors, strict=True)]
        found = []
        parts = self.optimizer._geometry.minimise(buckets, tensors)
        for bucket, d, (lmo, dual) in zip(buckets, tensors, parts, strict=True):
            if bucket.stacked:  # the dual norm found is the sum over the stack
                unit, scale = split_scale(d.reshape(len(d), -1), 1)
                dual = saturate(-(unit * lmo.reshape(len(d), -1)).sum(1) * scale.squeeze(1))
            found.append(bucket.group.radius * wide(dual).reshape(-1))
        return _on_one_device(found)

    def _lengths(self, buckets: Sequence[Bucket], tensors: Sequence[Tensor]) -> Tensor:
        """Return the norm of each parameter over its radius, `(n,)`; `(1,)` for one ball."""
        if not any(bucket.stacked for bucket in buckets):
            ratios = self.optimizer._geometry.ratios(buckets, tensors)
            return _on_one_device([wide(ratio).reshape(1) for ratio in ratios])
        found = []
        for bucket, w in zip(buckets, tensors, strict=True):
            norm, radius = bucket.group.norm.norm, bucket.group.radius
            length = torch.vmap(norm)(w) if bucket.stacked else norm(w)
            found.append(wide(length).reshape(-1) / radius)
        return _on_one_device(found)

    def samples(self) -> dict[str, Tensor]:
        """Return what was measured; `n` measurements, `k` parameter groups.

        `step`, shape `(n,)`; `dual_norm` and `L`, shape `(n,)`, over all layers; `group_dual_norm`
        and `group_L`, shape `(n, k)`, NaN before a group joined. `L` is NaN or infinite where a
        step did not move.
        """
        duals = self._columns([sample.dual for sample in self._samples])
        smooth = self._columns([sample.smoothness for sample in self._samples])
        return {
            "step": torch.tensor([sample.step for sample in self._samples]),
            "dual_norm": duals[:, 0],
            "L": smooth[:, 0],
            "group_dual_norm": duals[:, 1:],
            "group_L": smooth[:, 1:],
        }

    def _columns(self, rows: Sequence[Tensor]) -> Tensor:
        """Stack rows of one number and one for each group; NaN for a group that joined later."""
        width = len(self.optimizer.param_groups) + 1
        if not rows:
            return torch.zeros(0, width, dtype=torch.float64)
        pad = torch.nn.functional.pad
        return torch.stack([pad(row, (0, width - len(row)), value=math.nan) for row in rows])

    def layers(self) -> dict[str, Tensor]:
        """Return the measurements of every parameter, by its name.

        Each has shape `(2, m)`, with `m` the number of measurements in which the parameter had a
        gradient. The first row is its part of the dual norm, `r_l ||g_l||_l*`. The second row is
        `L`: the same for the change of its gradient, divided by the distance that the parameter
        moved, in units of its own ball (of the common ball, if one norm is for all parameters).
        """
        found: dict[str, list[Tensor]] = {}
        for sample in self._samples:
            for name, pair in zip(sample.names, sample.layers.unbind(1), strict=True):
                found.setdefault(name, []).append(pair)
        return {name: torch.stack(pairs, dim=1) for name, pairs in found.items()}

    def fit(self, group: int | None = None, *, layer: str | None = None) -> Fit:
        """Fit `(L0, L1)` to the measurements over all layers, of one group, or of one parameter.

        The slope is the median of the slopes between all pairs (Theil and Sen), and at least 0; up
        to 29 % of outliers cannot move it far. The intercept is the median of the residuals, and at
        least 0. The intervals come from 200 resamplings with a fixed seed.

        Args:
            group: number of a parameter group.
            layer: name of a parameter, a key of `layers()`.

        Raises:
            ValueError: fewer than three finite measurements, an unknown name, or both a group and a
                layer.
        """
        if layer is not None:
            layers = self.layers()
            if group is not None or layer not in layers:
                raise ValueError(
                    f"layer={layer!r} with group={group!r}: give one of them, a layer as one of "
                    f"{sorted(layers)}"
                )
            return fit_line(*layers[layer])
        data = self.samples()
        x = data["dual_norm"] if group is None else data["group_dual_norm"][:, group]
        y = data["L"] if group is None else data["group_L"][:, group]
        return fit_line(x, y)


def _on_one_device(parts: Sequence[Tensor]) -> Tensor:
    return torch.cat([part.to(parts[0].device) for part in parts])


def fit_line(x: Tensor, y: Tensor) -> Fit:
    """Fit `y = l0 + l1 x` robustly; see `SmoothnessProbe.fit`.

    Args:
        x: dual norms, shape `(n,)`.
        y: measured smoothness, shape `(n,)`; pairs that are not finite are left out.

    Raises:
        ValueError: fewer than three finite pairs.
    """
    finite = torch.isfinite(x) & torch.isfinite(y)
    x, y = x[finite].cpu().double(), y[finite].cpu().double()
    if len(x) < 3:
        raise ValueError(f"a fit needs at least three finite measurements, got {len(x)}")
    generator = torch.Generator().manual_seed(0)
    resampled = []
    for _ in range(200):
        chosen = torch.randint(len(x), (len(x),), generator=generator)
        resampled.append(_line(x[chosen], y[chosen]))
    ends = torch.tensor([0.05, 0.95], dtype=torch.float64)
    low, high = torch.quantile(torch.tensor(resampled, dtype=torch.float64), ends, dim=0).tolist()
    ranks = torch.stack([_ranks(x), _ranks(y)])
    l0, l1 = _line(x, y)
    return Fit(
        l0=l0,
        l1=l1,
        l0_interval=(low[0], high[0]),
        l1_interval=(low[1], high[1]),
        correlation=float(torch.corrcoef(ranks)[0, 1]),
        count=len(x),
    )


def _ranks(x: Tensor) -> Tensor:
    """Return the ranks of `x`, shape `(n,)`, from 1; equal values share the mean of theirs."""
    _, place, count = torch.unique(x, return_inverse=True, return_counts=True)
    last = count.cumsum(0).double()
    ranks: Tensor = (last - (count - 1) / 2)[place]
    return ranks


def _line(x: Tensor, y: Tensor) -> tuple[float, float]:
    first, second = torch.triu_indices(len(x), len(x), offset=1)
    run, rise = x[second] - x[first], y[second] - y[first]
    steep = run != 0
    slope = float((rise[steep] / run[steep]).median()) if steep.any() else 0.0
    slope = max(slope, 0.0)
    return max(float((y - slope * x).median()), 0.0), slope


def _random_state() -> tuple[Tensor, list[Tensor]]:
    cuda = torch.cuda.is_available() and torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    return torch.get_rng_state(), torch.cuda.get_rng_state_all() if cuda else []


def _set_random_state(state: tuple[Tensor, list[Tensor]]) -> None:
    torch.set_rng_state(state[0])
    if state[1]:
        torch.cuda.set_rng_state_all(state[1])
