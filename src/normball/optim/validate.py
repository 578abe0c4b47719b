"""Checks of what an optimizer accepts, made before anything is changed."""

import difflib
import math
from collections.abc import Iterable, Mapping, Set
from numbers import Real
from typing import Any

import torch
from torch import Tensor
from torch.nn.parameter import is_lazy

import normball.norms as norms
from normball import parallel
from normball.norms import Norm

# Keys of other optimizers, and what to write here instead.
_ELSEWHERE = {
    "weight_decay": "pass constrained=True to the optimizer: the radius bounds the weights and lr "
    "sets how fast they shrink",
    "momentum": "use alpha, the weight of the new gradient: momentum 0.9 is alpha=0.1",
    "beta": "use alpha, the weight of the new gradient: beta 0.9 is alpha=0.1",
    "betas": "use alpha, the weight of the new gradient: beta 0.9 is alpha=0.1",
    "scale": "use radius",
    "max_norm": "use rho, the threshold of the dual norm",
    "eps": "no eps is needed: the minimiser at zero is zero",
    "initial_lr": "a scheduler put it there: make new groups, by param_groups(model) for instance",
    "nesterov": "pass nesterov=True to the optimizer: all groups look ahead, or none",
    "average": "pass average=0.1 to the optimizer: all weights are averaged, or none",
    "lazy": "pass lazy= to the optimizer: it holds for all groups",
}


def check_keys(group: Mapping[str, Any], allowed: Iterable[str]) -> None:
    """Raise TypeError for a key of a parameter group that the optimizer does not know.

    The message gives the nearest known key, or the replacement for a key of other optimizers.
    """
    allowed = sorted(allowed)
    for key in group:
        if key in allowed:
            continue
        if key in _ELSEWHERE:
            hint = _ELSEWHERE[key]
        else:
            near = difflib.get_close_matches(str(key), allowed, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known keys: {', '.join(allowed)}"
        raise TypeError(f"unknown key {key!r} in a parameter group: {hint}")


def check_counted(value: object, stages: object) -> bool:
    """Return whether a group counts in sums over stages.

    Raises:
        TypeError: `value` is not a bool.
        ValueError: it is False, and there is no other stage.
    """
    if not isinstance(value, bool):
        raise TypeError(f"counted={value!r} must be True or False")
    if not value and stages is None:
        raise ValueError("counted=False is for copies that another stage counts: pass stages=")
    return value


def check_replaced(params: Iterable[Tensor], shapes: Set[torch.Size]) -> None:
    """Raise ValueError if a wrapper has replaced matrices by a vector of layers laid end to end."""
    held = {p.shape for p in params}
    matrices, now = (any(len(shape) > 1 for shape in known) for known in (shapes, held))
    if matrices and not now and held - shapes:
        raise ValueError(
            f"the groups now hold vectors alone, of the shapes {sorted(map(tuple, held))}, and "
            "were given matrices: a wrapper has laid layers end to end, as DeepSpeed's ZeRO does. "
            "Use fully_shard, DDP or ZeRO stage 0"
        )


def check_number(
    name: str,
    value: object,
    *,
    low: float,
    high: float = math.inf,
    open_low: bool = False,
    slack: float = 0.0,
) -> float:
    """Return `value` as a float of the range `[low, high]` (`(low, high]` when `open_low`).

    A value below a closed end by at most `slack` counts as that end.

    Raises:
        TypeError: it is not a real number.
        ValueError: it is NaN, infinite or outside.
    """
    if isinstance(value, Tensor) or not isinstance(value, Real):
        raise TypeError(f"{name}={value!r} must be a plain number, not {type(value).__name__}")
    number = float(value)
    if not open_low and low - slack <= number < low:
        number = low
    inside = low < number <= high if open_low else low <= number <= high
    if not inside or number == math.inf:
        left = f"({low:g}" if open_low else f"[{low:g}"
        right = f"{high:g}]" if math.isfinite(high) else "inf)"
        raise ValueError(f"{name}={number!r} must lie in {left}, {right}")
    return number


def check_scalar(name: str, value: Tensor) -> None:
    """Refuse a tensor that cannot stand for a number; its value is not read.

    Raises:
        TypeError: it is not of a floating dtype.
        ValueError: it is not 0-d.
    """
    if not value.is_floating_point():
        raise TypeError(f"{name} is a tensor of dtype {value.dtype}: give it a floating dtype")
    if value.ndim:
        raise ValueError(
            f"{name} is a tensor of the shape {tuple(value.shape)}: use a 0-d tensor, such as "
            "torch.tensor(0.01)"
        )


def check_norm(norm: object) -> Norm:
    """Return `norm` if it is a norm on single tensors; raise TypeError that names a near one."""
    if isinstance(norm, Norm):
        return norm
    known = sorted(name for name in norms.__all__ if name not in ("Norm", "Product"))
    lower = {name.lower(): name for name in known}
    near = difflib.get_close_matches(str(getattr(norm, "__name__", norm)).lower(), lower, n=1)
    hint = f"did you mean {lower[near[0]]}()?" if near else f"known norms: {', '.join(known)}"
    raise TypeError(f"norm={norm!r} is not an object of normball.norms: {hint}")


def check_parameter(name: str, parameter: object, norm: Norm) -> None:
    """Refuse a parameter that a step on a norm ball cannot train.

    Raises:
        TypeError: not a tensor, complex or not floating, or sharded or flattened by a wrapper.
        ValueError: lazy, sparse, not a leaf, or of a shape that the norm does not fit.
    """
    if not isinstance(parameter, Tensor):
        raise TypeError(
            f"{name} is a {type(parameter).__name__}, not a tensor: give param_groups(model), or a "
            "model's parameters()"
        )
    if is_lazy(parameter):
        raise ValueError(f"{name} has no shape yet: run a batch through its lazy module first")
    if parallel.is_flat(parameter):
        raise TypeError(
            f"{name} is a flat shard, in which the layers' matrices are lost (FSDP1, ZeRO): use "
            "FSDP2 (torch.distributed.fsdp.fully_shard), whose shards keep their shapes, or DDP"
        )
    parallel.check_placements(name, parameter)
    if parameter.is_complex():
        raise TypeError(f"{name} is complex: optimize torch.view_as_real of it, shape (..., 2)")
    if not parameter.is_floating_point():
        raise TypeError(f"{name} has dtype {parameter.dtype}: only floating dtypes have gradients")
    if parameter.layout != torch.strided:
        raise ValueError(f"{name} has layout {parameter.layout}: use a dense (strided) tensor")
    if not parameter.is_leaf and not parameter.retains_grad:
        raise ValueError(f"{name} is not a leaf: no gradient is kept for it")
    check_shape(name, parameter, norm)


def check_shape(name: str, parameter: Tensor, norm: Norm) -> None:
    """Raise ValueError, with the name, where the norm does not fit the shape."""
    try:
        norm.check(parameter.shape)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None
