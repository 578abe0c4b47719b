"""Norms that see a tensor of any shape as one vector."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from normball._numeric import as_working, saturate, split_scale
from normball.norms.base import Norm

__all__ = ["RMS", "Euclidean", "Sign"]


def _length(w: Tensor) -> Tensor:
    unit, scale = split_scale(as_working(w))
    return saturate(torch.linalg.vector_norm(unit) * scale)


def _normalised(d: Tensor) -> tuple[Tensor, Tensor]:
    """Return `d / ||d||_2` (0 at 0) and `||d||_2`."""
    unit, scale = split_scale(as_working(d))
    length = torch.linalg.vector_norm(unit)
    unit = unit / torch.where(length == 0, 1, length)
    return unit, saturate(length * scale)


@dataclass(frozen=True)
class Euclidean(Norm):
    """The Euclidean norm `||w||_2`; on matrices the Frobenius norm. Its own dual.

    `lmo(d) = -d / ||d||_2`. Clipped gradient descent, LARS.
    """

    def norm(self, w: Tensor) -> Tensor:
        """Return `||w||_2`."""
        return _length(w)

    def lmo_and_dual(self, d: Tensor) -> tuple[Tensor, Tensor]:
        """Return `-d / ||d||_2` and `||d||_2`."""
        unit, length = _normalised(d)
        return (-unit).to(d.dtype), length


@dataclass(frozen=True)
class RMS(Norm):
    """The root mean square `||w||_2 / sqrt(n)` over all `n` entries; for biases and gains.

    `lmo(d) = -sqrt(n) d / ||d||_2` and `||d||* = sqrt(n) ||d||_2`.
    """

    def norm(self, w: Tensor) -> Tensor:
        """Return `||w||_2 / sqrt(n)`."""
        unit, scale = split_scale(as_working(w))
        return saturate(torch.linalg.vector_norm(unit) / math.sqrt(max(w.numel(), 1)) * scale)

    def lmo_and_dual(self, d: Tensor) -> tuple[Tensor, Tensor]:
        """Return `-sqrt(n) d / ||d||_2` and `sqrt(n) ||d||_2`."""
        unit, length = _normalised(d)
        root = math.sqrt(d.numel())
        return (-root * unit).to(d.dtype), saturate(root * length)


@dataclass(frozen=True)
class Sign(Norm):
    """The largest entry in absolute value, times the fan-in when `normalized`.

    With `d_in = numel / shape[0]` (1 for vectors and for `normalized=False`):
    `||w|| = d_in max|w_ij|`, `lmo(d) = -sign(d) / d_in`, `||d||* = sum|d_ij| / d_in`. For output
    layers, whose sign step then changes each output by at most `max|input|`, and for signSGD.
    """

    normalized: bool = True

    def norm(self, w: Tensor) -> Tensor:
        """Return `d_in max|w_ij|`."""
        if w.numel() == 0:
            return as_working(w).sum()
        largest = torch.linalg.vector_norm(as_working(w), float("inf"))
        return saturate(largest * self._fan_in(w.shape))

    def lmo_and_dual(self, d: Tensor) -> tuple[Tensor, Tensor]:
        """Return `-sign(d) / d_in` and `sum|d_ij| / d_in`."""
        unit, scale = split_scale(as_working(d))
        fan_in = self._fan_in(d.shape)
        dual = saturate(torch.linalg.vector_norm(unit, 1) / fan_in * scale)
        # sign(NaN) is 0; a scale that is not finite carries the NaN over.
        return (torch.sign(unit) * (0 * scale - 1 / fan_in)).to(d.dtype), dual

    def _onto_sphere(self, noise: Tensor) -> Tensor:
        return torch.where(noise < 0, -1.0, 1.0) / self._fan_in(noise.shape)

    def _fan_in(self, shape: torch.Size) -> int:
        if not self.normalized or len(shape) < 2:
            return 1
        return max(math.prod(shape[1:]), 1)
