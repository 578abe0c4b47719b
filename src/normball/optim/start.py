"""The first step of a constrained method starts in the ball."""

import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from normball import parallel
from normball._numeric import has_value
from normball._scalar import Flag, tensor, together, wide
from normball.optim.buckets import Bucket, Param
from normball.optim.estimate import State
from normball.optim.geometry import Geometry
from normball.optim.settings import ENTERED

# How far above its radius a measured norm can be by rounding alone.
_SLACK = {torch.float64: 1e-9, torch.float32: 1e-3}


def enter_ball(
    geometry: Geometry,
    params: Sequence[Param],
    inside: dict[Tensor, float],
    finite: Flag,
    state: State,
) -> None:
    """Scale parameters that start outside their ball onto it, with a warning.

    Averages that exist already are scaled in the same way, each by its own factor. The first step
    of a parameter computes its norm, and so waits for the device; so does the first step after its
    radius became smaller. No other step waits, or notices weights that something else moved.

    Args:
        geometry: says which parameters share a ball.
        params: those of this step.
        inside: the radius of every parameter known to be in its ball; updated here.
        finite: whether the step is taken.
        state: of the optimizer.
    """
    for b in params:
        if b.group.radius > inside.get(b.tensor, math.inf):
            inside[b.tensor] = b.group.radius  # a point in a ball is also in a larger ball
    if all(inside.get(b.tensor) == b.group.radius for b in params) or not has_value(
        params[0].shard
    ):
        return
    # A step of length 0 moves nothing, not even into the ball.
    balls = [
        ball
        for ball in geometry.balls(params)
        if any(inside.get(b.tensor) != b.group.radius and b.group.longest for b in ball)
    ]
    if not balls:
        return
    parts = [param for ball in balls for param in ball]
    averages = {b.tensor: state.get(b.tensor, {}).get("average") for b in parts}
    means = {p: parallel.local(m) for p, m in averages.items() if m is not None}
    sets = [[b.shard for b in parts]]
    if means:
        sets.append([means.get(b.tensor, b.shard) for b in parts])
    buckets = [Bucket([param]) for param in parts]
    owners = [b.tensor for b in parts]
    wholes = [map(parallel.whole, points, owners) for points in sets]
    ratios = [wide(together(geometry.ratios(buckets, points))) for points in wholes]
    *values, taken = torch.cat([*ratios, tensor(finite, ratios[0]).reshape(1)]).tolist()
    if not taken:
        return
    for ball, ratio in zip(balls, values[len(balls) :], strict=False):
        if ratio > _limit(ball[0]):
            for param in ball:
                if param.tensor in means:
                    means[param.tensor].div_(ratio)
    for ball, ratio in zip(balls, values[: len(balls)], strict=True):
        first, radius = ball[0], ball[0].group.radius
        if ratio > _limit(first):
            for param in ball:
                param.shard.div_(ratio)
            what = f"{first.name} of shape {tuple(first.tensor.shape)} starts outside its ball"
            if len(ball) > 1:
                what = f"the start ({len(ball)} parameters together) is outside the ball"
            warnings.warn(
                f"{what}: norm {ratio * radius:.4g}, radius {radius:.4g}. It was scaled onto the "
                "ball; initialise it inside, or take a larger radius",
                stacklevel=6,
            )
    inside.update((param.tensor, param.group.radius) for param in parts)


def save_entered(
    groups: Iterable[dict[str, Any]], saved: Iterable[dict[str, Any]], inside: dict[Tensor, float]
) -> None:
    """Write into the groups of a state the radius of the ball that their parameters have entered.

    Args:
        groups: those of the optimizer.
        saved: those of the state.
        inside: the radius of every parameter known to be in its ball.
    """
    for group, kept in zip(groups, saved, strict=True):
        kept[ENTERED] = max((inside.get(p, 0.0) for p in group["params"]), default=0.0)


def load_entered(
    groups: Iterable[Mapping[str, Any]], saved: Mapping[str, Any], inside: dict[Tensor, float]
) -> None:
    """Read from a state which parameters have entered their ball: those that have taken a step.

    So a run that is resumed scales no parameter that the same run without a break would not scale.
    """
    inside.clear()
    for group, kept in zip(groups, saved["param_groups"], strict=True):
        radius = kept.get(ENTERED)
        for p, key in zip(group["params"], kept["params"], strict=True):
            if radius and (saved["state"].get(key) or kept["alpha"] == 1):
                inside[p] = radius


def _limit(param: Param) -> float:
    return 1 + _SLACK.get(param.shard.dtype, 2e-2)
