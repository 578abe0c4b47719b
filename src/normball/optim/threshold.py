"""A threshold measured while training: `rho = lr * L`, with the curvature that the steps met."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from normball import parallel
from normball._numeric import as_working, inner
from normball._scalar import (
    Flag,
    Scalar,
    clamp,
    exp,
    finite,
    least,
    most,
    number,
    of_kind,
    ratio,
    sqrt,
    together,
    total,
    where,
)
from normball.optim.buckets import Bucket
from normball.optim.estimate import Estimate
from normball.optim.geometry import Geometry
from normball.optim.sharded import settle
from normball.optim.totals import add_up
from normball.optim.update import Update

# A look measures one step in `_EVERY`, and each of the first `_START` steps.
_EVERY, _START = 5, 20
# The largest growth of the step size from look to look.
_GROWTH = 2.0
# The longest step is `lr` for this many steps, then falls with the square root of their number.
_LEVEL = 50
# No step is shorter than this part of the longest one. In the first `_RISE` steps this lower limit
# is smaller, and rises linearly.
_SHORT, _RISE = 0.25, 5
# After the start, where the change of slope is `_SWUNG` times the slope before a step, the part is
# `_LONG`; at `_SWING` times it begins to rise.
_LONG, _SWING, _SWUNG = 0.7, 1.9, 2.1
# The weight of earlier looks in the running averages, which cover about ten looks.
_WEIGHT = 0.9
# `L` follows this quantile of the averages. Its logarithm changes by at most `_PACE` a look; in the
# first looks after the start by more, at most `_HASTE` divided by their number.
_QUANTILE, _PACE, _HASTE = 0.1, 0.2, 2.0
# After `_SETTLED` looks the logarithm of `L` falls by at most `_DRIFT` over their number a look.
_SETTLED, _DRIFT = 40, 0.5
# An average below this share of the slope is mostly noise.
_LEAST = 1e-3
# After the start, the part of a measured curvature that counts as curvature.
_TRIM = 0.5
_FIGURES = 9


class MeasuredThreshold:
    """Chooses `rho = lr * L`, below which a step is steepest descent with step size `1 / L`.

    A step of length `t` along `u` starts at a slope of about `<d, u>`, where `d` is the estimate
    that `u` was computed from. It ends at a slope of `<g', u>`, where `g'` is the gradient after
    the step. `g'` comes from another batch, so its noise is independent of `u`. The curvature of
    the loss along the step is about

        L_k = (<d, u> / (1 - (1 - alpha)^k) - <g', u>) / t

    after `k` steps from `d_0 = 0`. This is too large, for two reasons. The noise in `d` makes
    `<d, u>` larger, which matters most for short steps; and `d` holds gradients from before the
    step. So `L` is half of a low quantile of running averages. At the start there is a look after
    every step, and `L` is the latest average. The step size at most doubles from look to look.
    Later `L` can still rise at the same rate, but it falls at most as one over the square root of
    the number of looks, because noise hides the curvature more and more.

    Two limits hold for the step, whatever was measured. A step is at most `lr min(1, sqrt(50 / k))`
    long: a stochastic method needs such a decay if the length of the run is not known. And it is
    at least a quarter of that; over the first five steps this share rises from a twentieth. The
    lower limit is there because the directions of largest curvature are not those that have to be
    learned, and because a step in a norm ball moves no layer far. Where the slope after a step is
    the opposite of the slope before, on average over ten looks, the weights swing across a valley,
    which the average of the weights mends and shorter steps do not. There the lower limit is .7 of
    the longest step, unless constrained. The measurement is a heuristic; `docs/tuning.md` shows the
    results. The limits give a rate, whatever is measured (`bounds.measured_threshold`).

    If constrained, `u` is the vector `w` to the corner, `t` is the share of it that was taken, and
    the slopes are gaps; in variant 1 `t` is multiplied by `||w||^2`.

    `rho` is the last threshold, 0-d, which the groups of the optimizer share. The measurements are
    the numbers in `stats`, on a GPU in tensors that stay there: the share taken by the last step,
    the same times `||w||^2`, the number `k`, the averages of the change of slope, of the length
    and, unless constrained, of the slope, the number of looks, `L`, and the step size `gamma`.
    """

    def __init__(self) -> None:
        self.rho = torch.ones((), dtype=torch.float64)
        self.steps = 0
        self._stats: list[Scalar] = [torch.zeros((), dtype=torch.float64) for _ in range(_FIGURES)]
        self._size: Scalar = 1.0
        self._square: Scalar = 1.0
        self._limits: tuple[Scalar, Scalar] = 0.0, 0.0

    @property
    def due(self) -> bool:
        """Whether to measure the last step."""
        return self.steps > 0 and (self.steps <= _START or self.steps % _EVERY == 0)

    def look(
        self,
        buckets: Sequence[Bucket],
        pairs: Sequence[tuple[Scalar, Scalar]],
        lr: Scalar,
        constrained: bool,
        taken: Flag,
        stages: parallel.Stages | None,
        zero: Tensor | None,
    ) -> None:
        """Add the change of slope along the last step to the averages, unless it is not usable.

        Args:
            buckets: those of this step.
            pairs: the slopes `<d, u>` and `<g', u>` of each.
            lr: the largest one of the groups.
            constrained: whether the step went towards the minimiser.
            taken: whether the step is.
            stages: where ranks hold different parameters.
            zero: 0-d, which gives dtype and device where there are stages.
        """
        turns, slopes = [], []
        self._settle(pairs[0][0] if pairs else self._size)
        share, _, count, *_ = self._stats
        for bucket, (before, after) in zip(buckets, pairs, strict=True):
            # Groups with a smaller lr moved less.
            weight = _share(bucket.group.longest, lr)
            if constrained:
                # After the step, 1 - share of the way to the corner is left.
                weight = weight / clamp(1 - share * weight, _eps(share))
            start = ratio(before, 1 - (1 - bucket.group.alpha) ** count)
            slopes.append(weight * start)
            turns.append(weight * (start - after))
        turn, slope = add_up(buckets, [turns, slopes], stages, zero)
        self._take_in(turn, slope, constrained, taken)

    def _settle(self, like: Scalar) -> None:
        """Make the measurements numbers of the kind of `like`."""
        self._stats = [of_kind(x, like) for x in self._stats]

    def _take_in(self, turn: Scalar, slope: Scalar, constrained: bool, taken: Flag) -> None:
        _, length, _, turned, moved, sloped, count, level, gamma = self._stats
        sound = taken & finite(turn) & (length > 0) & (slope > 0)
        weight = clamp(1 - 1 / (count + 1), high=_WEIGHT)
        turned = turn + weight * (turned - turn)
        moved = length + weight * (moved - length)
        sloped = where(sloped == 0, slope, slope + weight * (sloped - slope))
        sloped = 0.0 * sloped if constrained else sloped
        latest = ratio(most(turned, _LEAST * slope), moved)
        latest = where(count < _START, latest, _TRIM * latest)
        pace = clamp(ratio(_HASTE, count - _START + 1), _PACE)
        fall = where(count < _SETTLED, (1 - _QUANTILE) * pace, ratio(_DRIFT, count))
        lower = most(latest, level * exp(-fall))
        later = where(latest < level, lower, level * math.exp(_QUANTILE * _PACE))
        level = where(count < _START, latest, later)
        gamma = least(ratio(1.0, level), _GROWTH * gamma)
        new = [turned, moved, sloped, count + 1, level, gamma]
        kept = [where(sound, a, b) for a, b in zip(new, self._stats[3:], strict=True)]
        self._stats = [*self._stats[:3], *kept]

    def choose(self, size: Scalar, corner: Scalar | None, lr: Scalar) -> Scalar:
        """Return `rho`.

        Args:
            size: the dual norm of the estimate, or the gap.
            corner: `||w||` in variant 1.
            lr: the largest one of the groups.
        """
        self._size = size
        self._square = 1.0 if corner is None else corner * corner
        self._settle(size)
        _, _, steps, turned, _, sloped, looks, _, gamma = self._stats
        longest = sqrt(clamp(_LEVEL / (steps + 1), high=1.0))
        swing = where((looks < _START) | (sloped == 0), 0.0, ratio(turned, sloped))
        rise = clamp((swing - _SWING) / (_SWUNG - _SWING), 0.0, 1.0)
        part = _SHORT * exp(rise * math.log(_LONG / _SHORT))
        shortest = longest * part * clamp((steps + 1) / _RISE, high=1.0)
        self._limits = lr * shortest, lr * longest
        # The step is `unit / rho` times `lr`.
        unit = size / where(self._square == 0, 1.0, self._square)
        rho = where(gamma > 0, ratio(lr, gamma), math.inf)
        rho = least(most(rho, unit / longest), unit / shortest)
        limits = torch.finfo(torch.float32)
        rho = clamp(where(rho == rho, rho, limits.max), limits.tiny, limits.max)
        self.rho = torch.full((), rho, dtype=torch.float64) if isinstance(rho, float) else rho
        return rho

    def took(self, factor: Scalar, lr: Scalar, taken: Flag) -> None:
        """Record a step: its share of the longest step, and whether it was not skipped.

        A step with a dual norm (or gap) of 0 does not change `stats`. Checkpoint tools take such a
        step to create the state.
        """
        self.steps += 1
        share = factor * lr
        length = share * self._square
        counted = taken & (self._size != 0)
        moved = counted & (length > 0)
        before, last, count, *averages, gamma = self._stats
        begun = where(moved, ratio(length, self._size), 0.0)
        self._stats = [
            where(moved, share, before), where(moved, length, last), count + counted, *averages,
            where(gamma > 0, gamma, begun),
        ]  # fmt: skip

    def report(self) -> dict[str, Scalar]:
        """Return the metrics that `ClippedScion.metrics` describes, zero where nothing was seen."""
        _, _, _, turned, moved, sloped, _, level, _ = self._stats
        return {
            "shortest_step": self._limits[0],
            "longest_step": self._limits[1],
            "curvature": level,
            "mean_curvature": where(moved > 0, ratio(turned, moved), 0.0),
            "swing": where(sloped > 0, ratio(turned, sloped), 0.0),
        }

    def figures(self) -> list[float]:
        """Return the number of steps, and `stats`, for a checkpoint."""
        return [float(self.steps), *map(float, self._stats)]

    def restore(self, figures: Sequence[float]) -> None:
        """Continue from the `figures` of a checkpoint."""
        self.steps = int(figures[0])
        self._stats = [*figures[1:]]


def split_state(state_dict: dict[str, Any], measuring: bool) -> tuple[dict[str, Any], list[float]]:
    """Return an optimizer's state without the measurements, and these; empty if not `measuring`.

    Raises:
        ValueError: only one of state and optimizer has measurements, or they are not valid.
    """
    groups = state_dict.get("param_groups") if isinstance(state_dict, Mapping) else None
    if not isinstance(groups, list) or not all(isinstance(group, Mapping) for group in groups):
        return state_dict, []  # a later check refuses it
    saved = [group["curvature"] for group in groups if "curvature" in group]
    if saved and not measuring:
        raise ValueError('the state was saved with rho="auto": build the optimizer with it')
    if measuring and not saved and all("rho" in group for group in groups):
        raise ValueError(
            f"the state was saved with rho={groups[0]['rho']!r} and has measured nothing: build "
            'the optimizer with that instead of "auto"'
        )
    if not saved:
        return state_dict, []
    first = saved[0]
    if isinstance(first, list) and len(first) == _FIGURES:  # saved before there was a mean slope
        saved = [[*old[:6], 0.0, *old[6:]] for old in saved]
        first = saved[0]
    same = len(saved) == len(groups) and all(other == first for other in saved)
    numbers = isinstance(first, list) and all(
        isinstance(x, float) and math.isfinite(x) and x >= 0 for x in first[:4] + first[5:]
    )
    if not (same and numbers and len(first) == 1 + _FIGURES):
        raise ValueError(
            f"the saved curvature {first!r} is not {1 + _FIGURES} finite numbers, the same in "
            "every group"
        )
    plain = [{k: v for k, v in group.items() if k != "curvature"} for group in groups]
    return {**state_dict, "param_groups": plain}, first


def slopes(
    geometry: Geometry,
    buckets: Sequence[Bucket],
    momenta: Sequence[Estimate],
    grads: Sequence[Tensor],
    constrained: bool,
) -> list[tuple[Scalar, Scalar]]:
    """Return for every bucket the slopes `<d, u>` and `<g, u>` along the last step, negated.

    `u` is the minimiser for `momenta`, times the radius; if constrained, the vector to that point
    from the parameters. The minimisers are computed again, so that none has to be kept from one
    step to the next.

    Args:
        geometry: computes the minimisers.
        buckets: those of this step.
        momenta: estimates of the last step.
        grads: those of this step.
        constrained: whether the step went towards the minimiser.
    """
    updates: dict[int, Update] = {}
    found: dict[int, Sequence[Scalar]] = {}

    for i, update in geometry.updates(buckets, momenta, False, False):
        updates[i] = update
        if update.ready:
            found[i] = _products(buckets[i], grads[i], update, momenta[i], constrained)
            if update.held:
                update.forget()
    ordered = [updates[i] for i in range(len(buckets))]
    settle(ordered, False)
    for i, update in enumerate(ordered):
        if i not in found:
            found[i] = _products(buckets[i], grads[i], update, momenta[i], constrained)
    cuts: dict[int, parallel.Cut] = {}
    for i, bucket in enumerate(buckets):
        cut = parallel.cut_of(bucket.first.tensor)
        if cut is not None:
            cuts[i] = cut
    shares = [together(found[i]) * float(cut.first) for i, cut in cuts.items()]
    sums = parallel.add_up(shares, [cut.holders for cut in cuts.values()])
    found |= {i: [*map(number, sums_of.unbind())] for i, sums_of in zip(cuts, sums, strict=True)}
    return list(_slopes(buckets, ordered, found))


def _products(
    bucket: Bucket, grad: Tensor, update: Update, momentum: Estimate, constrained: bool
) -> Sequence[Scalar]:
    """Return `-r <g, u>`, and if constrained `<d, x>` and `<g, x>`, of this rank's parts."""
    along = [
        _product(grad if part is bucket else part.first.grad, lmo)
        for part, lmo in update.steps(bucket)
    ]
    values = [-bucket.group.radius * total(along)]
    if constrained:
        x = bucket.join(bucket.shards)
        values += [_product(momentum.value(), x), _product(grad, x)]
    return values


def _slopes(
    buckets: Sequence[Bucket], updates: Sequence[Update], found: dict[int, Sequence[Scalar]]
) -> Iterator[tuple[Scalar, Scalar]]:
    for i, (bucket, update) in enumerate(zip(buckets, updates, strict=True)):
        after, *weights = found[i]
        before = bucket.group.radius * update.dual
        yield (before + weights[0], after + weights[1]) if weights else (before, after)


def _product(a: Tensor, b: Tensor) -> Scalar:
    dtype = torch.promote_types(a.dtype, b.dtype)
    return number(inner(as_working(a.to(dtype)), as_working(b.to(dtype))))


def _share(longest: Scalar, lr: Scalar) -> Scalar:
    if isinstance(lr, Tensor):
        return torch.as_tensor(longest, device=lr.device) / lr
    return number(longest) / lr if lr else 1.0


def _eps(x: Scalar) -> float:
    return torch.finfo(x.dtype if isinstance(x, Tensor) else torch.float64).eps
