"""Arithmetic on single numbers: Python's where the host knows their values, else 0-d tensors.

On a CPU an operation on a 0-d tensor costs ten times one on a Python number. On other devices, in a
compiler and under `vmap` values stay in tensors, and nothing waits for them. Each function here
takes both kinds, and treats NaN and infinity as IEEE 754 does.
"""

import math

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
    return where((a <= b) | (a != a), a, b)


def most(a: Scalar, b: Scalar) -> Scalar:
    """Return the larger one, NaN if one is NaN."""
    return where((a >= b) | (a != a), a, b)


def ratio(a: Scalar, b: Scalar) -> Scalar:
    """Return `a / b`; infinite or NaN where `b` is 0."""
    if isinstance(a, Tensor) or isinstance(b, Tensor) or b != 0:
        return a / b
    return math.nan if a == 0 or a != a else math.copysign(math.inf, a) * math.copysign(1.0, b)


def sqrt(x: Scalar) -> Scalar:
    """Return the square root of a number that is not negative."""
    return x.sqrt() if isinstance(x, Tensor) else math.sqrt(x)


def finite(x: Scalar) -> Flag:
    """Tell whether `x` is neither infinite nor NaN."""
    return torch.isfinite(x) if isinstance(x, Tensor) else math.isfinite(x)


def negated(flag: Flag) -> Flag:
    """Return the opposite."""
    return flag.logical_not() if isinstance(flag, Tensor) else not flag
