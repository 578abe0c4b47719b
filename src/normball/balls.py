"""Weights and their balls: start training on the sphere, and scale weights back into the ball."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from normball.groups import param_groups
from normball.groups.plan import aligned
from normball.groups.rules import LOW_RANK
from normball.norms import RMS, Column, Norm, Sign
from normball.optim import GGNC, S3CG

Target = nn.Module | Optimizer | Iterable[Mapping[str, Any]]


@dataclass(frozen=True)
class Change:
    """What was done to one parameter; norms in units of its radius, so 1 is the sphere."""

    name: str
    shape: torch.Size
    done: str
    before: float
    after: float
    radius: float


class Report(tuple[Change, ...]):
    """One `Change` for every parameter; `print(report)` shows a table."""

    __slots__ = ()

    def __str__(self) -> str:
        header = ("name", "shape", "radius", "norm / radius before", "after", "done")
        rows = [
            (c.name, str(tuple(c.shape)), f"{c.radius:g}", f"{c.before:.4g}", f"{c.after:.4g}",
             c.done)
            for c in self
        ]  # fmt: skip
        return aligned([header, *rows])

    __repr__ = __str__


def init_(
    target: Target, *, generator: torch.Generator | None = None, zero_output: bool = False
) -> Report:
    """Start every weight at a random point of the sphere of its ball, in place.

    Scion's initialisation (arXiv 2502.07529): semi-orthogonal matrices and flattened kernels,
    random signs, normalised rows or columns, each times its radius. Biases become 0; gains and
    scales (vectors that are not named a bias) keep their value. Rows of a table that are 0, such
    as that of `padding_idx`, stay 0, and so does a factor of a low-rank pair. What is frozen stays.

    Args:
        target: a model, whose groups are then `param_groups(model)`; a plan or other groups with
            `params`, `norm` and `radius`; or an optimizer of this package in which every parameter
            has its own ball.
        generator: source of the randomness; torch's global one when None.
        zero_output: start weights with the norm `Sign` at 0 instead, as is common for the last
            layer, whose radius is large.

    Returns:
        What was done to each parameter, as a table when printed.

    Raises:
        TypeError: `target` is none of these, or all its parameters share one ball.
        ValueError: a norm does not fit its parameter, or `param_groups` refuses the model.

    Examples:
        >>> from torch import nn
        >>> from normball import init_
        >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> [(change.name, change.done, round(change.after, 2)) for change in init_(model)][:2]
        [('0.weight', 'on the sphere', 1.0), ('0.bias', 'zero', 0.0)]
    """

    def start(w: Tensor, name: str, norm: Norm, radius: float) -> str:
        if isinstance(norm, RMS) and w.ndim < 2:
            if "bias" not in name.rsplit(".", 1)[-1]:
                return "kept"
            w.zero_()
            return "zero"
        if zero_output and isinstance(norm, Sign):
            w.zero_()
            return "zero"
        if LOW_RANK & set(name.lower().split(".")) and not w.any():
            return "kept at zero"
        empty = (w == 0).all(1) if norm == Column(transposed=True) and w.any() else None
        norm.init_(w, radius, generator)
        if empty is not None:
            w[empty] = 0
        return "on the sphere"

    return _apply(target, start)


def project_(target: Target) -> Report:
    """Scale every weight that lies outside its ball onto its sphere, in place.

    A constrained optimizer does the same at its first step, with a warning. Each parameter is
    multiplied by one factor, so it keeps its direction; this is not the nearest point of the ball.

    Args:
        target: as in `init_`.

    Returns:
        What was done to each parameter, as a table when printed.

    Raises:
        TypeError: `target` is none of these, or all its parameters share one ball.
        ValueError: a norm does not fit its parameter, or a weight is not finite.

    Examples:
        >>> import torch
        >>> from normball import project_
        >>> layer = torch.nn.Linear(2, 2)
        >>> _ = torch.nn.init.constant_(layer.weight, 100.0), torch.nn.init.zeros_(layer.bias)
        >>> print(project_(layer))
        name    shape   radius  norm / radius before  after  done
        weight  (2, 2)  32      6.25                  1      scaled
        bias    (2,)    0.25    0                     0      inside
    """

    def bring_in(w: Tensor, name: str, norm: Norm, radius: float) -> str:
        ratio = float(norm.norm(w)) / radius
        if not ratio < float("inf"):
            raise ValueError(f"{name} of shape {tuple(w.shape)} is not finite: load a good state")
        if ratio <= 1:
            return "inside"
        w.div_(ratio)
        return "scaled"

    return _apply(target, bring_in)


@torch.no_grad()
def _apply(target: Target, change: Any) -> Report:
    """Call `change(w, name, norm, radius)` on every parameter, once all are known to fit."""
    entries = list(_entries(target))
    for name, w, norm, _ in entries:
        try:
            norm.check(w.shape)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None
    changes = []
    for name, w, norm, radius in entries:
        before = float(norm.norm(w)) / radius
        done = change(w, name, norm, radius)
        changes.append(Change(name, w.shape, done, before, float(norm.norm(w)) / radius, radius))
    return Report(changes)


def _entries(target: Target) -> Iterator[tuple[str, Tensor, Norm, float]]:
    groups: Iterable[Mapping[str, Any]]
    if isinstance(target, nn.Module):
        groups = param_groups(target)
    elif isinstance(target, Optimizer):
        groups = target.param_groups
        _check_apart(target)
    elif isinstance(target, Iterable):
        groups = target
    else:
        raise TypeError(
            f"expected a model, parameter groups or an optimizer, got {type(target).__name__}"
        )
    for index, group in enumerate(groups):
        if not isinstance(group, Mapping) or not {"params", "norm", "radius"} <= set(group):
            raise TypeError(
                f"group {index} is not a dict with 'params', 'norm' and 'radius': make groups with "
                "normball.param_groups(model)"
            )
        names = group.get("param_names")
        for position, entry in enumerate(group["params"]):
            if isinstance(entry, tuple):
                name, parameter = entry
            else:
                parameter = entry
                name = names[position] if names else f"parameter {position} of group {index}"
            if not parameter.requires_grad:
                continue
            yield name, parameter, group["norm"], float(group["radius"])


def _check_apart(optimizer: Optimizer) -> None:
    """Raise TypeError if all parameters share one ball: no single one can be put on its sphere."""
    params = [p for group in optimizer.param_groups for p in group["params"]]
    if isinstance(optimizer, GGNC | S3CG) and len(params) > 1:
        raise TypeError(
            f"{type(optimizer).__name__} has one ball for its {len(params)} parameters together, "
            "and every one of them would get the whole radius: start them inside by hand; the "
            "first step of S3CG scales a start outside onto the ball"
        )
