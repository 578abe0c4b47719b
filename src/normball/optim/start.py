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
from normball.optim.blocks import Block, Bundle
from normball.optim.estimate import State
from normball.optim.geometry import Geometry
from normball.optim.settings import ENTERED

# How far above its radius a measured norm can be by rounding alone.
_SLACK = {torch.float64: 1e-9, torch.float32: 1e-3}


def enter_ball(
    geometry: Geometry,
    blocks: Sequence[Block],
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
        blocks: those of this step.
        inside: the radius of every parameter known to be in its ball; updated here.
        finite: whether the step is taken.
        state: of the optimizer.
    """
    for b in blocks:
        if b.radius > inside.get(b.owner, math.inf):
            inside[b.owner] = b.radius  # a point in a ball is also in a larger ball
    if all(inside.get(b.owner) == b.radius for b in blocks) or not has_value(blocks[0].param):
        return
    # A step of length 0 moves nothing, not even into the ball.
    balls = [
        ball
        for ball in geometry.balls(blocks)
        if any(inside.get(b.owner) != b.radius and b.longest for b in ball)
    ]
    if not balls:
        return
    parts = [block for ball in balls for block in ball]
    averages = {b.owner: state.get(b.owner, {}).get("average") for b in parts}
    means = {p: parallel.local(m) for p, m in averages.items() if m is not None}
    sets = [[b.param for b in parts]]
    if means:
        sets.append([means.get(b.owner, b.param) for b in parts])
    bundles = [Bundle([block]) for block in parts]
    owners = [b.owner for b in parts]
    wholes = [map(parallel.whole, points, owners) for points in sets]
    ratios = [wide(together(geometry.ratios(bundles, points))) for points in wholes]
    *values, taken = torch.cat([*ratios, tensor(finite, ratios[0]).reshape(1)]).tolist()
    if not taken:
        return
    for ball, ratio in zip(balls, values[len(balls) :], strict=False):
        if ratio > _limit(ball[0]):
            for block in ball:
                if block.owner in means:
                    means[block.owner].div_(ratio)
    for ball, ratio in zip(balls, values[: len(balls)], strict=True):
        first = ball[0]
        if ratio > _limit(first):
            for block in ball:
                block.param.div_(ratio)
            what = f"{first.name} of shape {tuple(first.owner.shape)} starts outside its ball"
            if len(ball) > 1:
                what = f"the start ({len(ball)} parameters together) is outside the ball"
            warnings.warn(
                f"{what}: norm {ratio * first.radius:.4g}, radius {first.radius:.4g}. It was "
                "scaled onto the ball; initialise it inside, or take a larger radius",
                stacklevel=6,
            )
    inside.update((block.owner, block.radius) for block in parts)


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


def _limit(block: Block) -> float:
    return 1 + _SLACK.get(block.param.dtype, 2e-2)
