"""Arithmetic on single numbers: Python's where the host knows their values, else 0-d tensors.

On a CPU an operation on a 0-d tensor costs ten times one on a Python number. On other devices, in a
compiler and under `vmap` values stay in tensors, and nothing waits for them. Each function here
takes both kinds, and treats NaN and infinity as IEEE 754 does.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from normball._numeric import host_knows

Scalar = float | Tensor
"""A number, or a tensor of the same meaning."""

Flag = bool | Tensor
"""True or False, or a bool tensor."""


def known(x: Tensor) -> Scalar:
    """Return the value of a 0-d tensor if the host knows it, else the tensor."""
    return x.item() if host_knows(x) else x


def flag(x: Tensor) -> Flag:
    """Return the value of a 0-d bool tensor if the host knows it, else the tensor."""
    return bool(x) if host_knows(x) else x


def wide(x: Tensor) -> Tensor:
    """Return a 0-d tensor in float64, if its device has that."""
    return x if x.device.type == "mps" else x.double()


def number(x: Scalar) -> Scalar:
    """Return a number of a step: in Python if the host knows it, else 0-d in float64."""
    if isinstance(x, Tensor):
        return x.item() if host_knows(x) else wide(x)
    return x


def tensor(x: Scalar, like: Tensor) -> Tensor:
    """Return a number as a 0-d tensor, of the dtype and on the device of `like`."""
    return x.to(like) if isinstance(x, Tensor) else like.new_full((), x)


def saturated(x: Scalar, like: Tensor) -> Tensor:
    """Return a number as a 0-d tensor of the dtype of `like`, at most its largest number."""
    limit = torch.finfo(like.dtype).max
    return tensor(clamp(x, -limit, limit), like)


def of_kind(x: Scalar, like: Scalar | Flag) -> Scalar:
    """Return a number that steps change, as a tensor beside a tensor `like`, else in Python.

    A tensor on the right device is returned as it is, so that it can be changed in place.
    """
    if not isinstance(like, Tensor):
        return float(x)
    dtype = torch.float32 if like.device.type == "mps" else torch.float64
    if isinstance(x, Tensor):
        return x.to(like.device, dtype)
    return torch.full((), x, dtype=dtype, device=like.device)


def together(values: Sequence[Scalar]) -> Tensor:
    """Return numbers as one vector, on the device of the first tensor among them."""
    tensors = [x for x in values if isinstance(x, Tensor)]
    if not tensors:
        return torch.tensor(values, dtype=torch.float64)
    return torch.stack([tensor(x, tensors[0]) for x in values])


def total(values: Sequence[Scalar]) -> Scalar:
    """Return the sum, of the kind of the values."""
    if any(isinstance(x, Tensor) for x in values):
        return together(values).sum()
    return sum(values, 0.0)


def largest(values: Sequence[Scalar]) -> Scalar:
    """Return the largest number, of the kind of the values; NaN where there is one."""
    if any(isinstance(x, Tensor) for x in values):
        return together(values).amax()
    return math.nan if any(x != x for x in values) else max(values)


def where(flag: Flag, a: Scalar, b: Scalar) -> Scalar:
    """Return `a` where the flag holds, else `b`."""
    if isinstance(flag, Tensor):
        return torch.where(flag, a, b)
    return a if flag else b


def clamp(x: Scalar, low: float | None = None, high: float | None = None) -> Scalar:
    """Return `x`, or the end of the range that it is beyond."""
    if isinstance(x, Tensor):
        return x.clamp(low, high)
    if low is not None and x < low:
        return low
    return high if high is not None and x > high else x


def least(a: Scalar, b: Scalar) -> Scalar:
    """Return the smaller one, NaN if one is NaN."""
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return torch.minimum(a, b)
    return where((a <= b) | (a != a), a, b)


def most(a: Scalar, b: Scalar) -> Scalar:
    """Return the larger one, NaN if one is NaN."""
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return torch.maximum(a, b)
    return where((a >= b) | (a != a), a, b)


def ratio(a: Scalar, b: Scalar) -> Scalar:
    """Return `a / b`; infinite or NaN where `b` is 0."""
    if isinstance(a, Tensor) or isinstance(b, Tensor) or b != 0:
        return a / b
    return math.nan if a == 0 or a != a else math.copysign(math.inf, a) * math.copysign(1.0, b)


def sqrt(x: Scalar) -> Scalar:
    """Return the square root of a number that is not negative."""
    return x.sqrt() if isinstance(x, Tensor) else math.sqrt(x)


def exp(x: Scalar) -> Scalar:
    """Return `e^x`, for `x` that is not large."""
    return x.exp() if isinstance(x, Tensor) else math.exp(x)


def finite(x: Scalar) -> Flag:
    """Tell whether `x` is neither infinite nor NaN."""
    return torch.isfinite(x) if isinstance(x, Tensor) else math.isfinite(x)


def every(flags: Sequence[Flag]) -> Flag:
    """Tell whether all hold; a tensor is on the device of the first one."""
    tensors = [flag for flag in flags if isinstance(flag, Tensor)]
    held = all(flag for flag in flags if not isinstance(flag, Tensor))
    if not tensors or not held:
        return held
    return torch.stack([flag.to(tensors[0].device) for flag in tensors]).all()


def negated(flag: Flag) -> Flag:
    """Return the opposite."""
    return flag.logical_not() if isinstance(flag, Tensor) else not flag
