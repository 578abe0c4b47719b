"""The spectral family: the largest singular value, whose minimiser is a polar factor."""

import difflib
import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from normball._numeric import as_working, in_dtype, largest_singular_value, saturate
from normball._scalar import known, saturated
from normball.norms.base import Norm
from normball.polar import SVD, Auto, Polar

__all__ = ["Spectral", "SpectralConv"]

_SCALES = ("rms", "input", "plain")


@dataclass(frozen=True)
class Spectral(Norm):
    """The largest singular value of a `(d_out, d_in)` matrix, divided by a scale.

    With `s = sqrt(d_out / d_in)` for `scale="rms"` (the operator norm RMS -> RMS, for hidden
    layers), `s = max(1, sqrt(d_out / d_in))` for `"input"` (first layers on real inputs) and
    `s = 1` for `"plain"`, and with the reduced SVD `d = U S V^T`:
    `||W|| = sigma_max(W) / s`, `lmo(d) = -s U V^T`, `||d||* = s sum_i sigma_i(d)`.

    A tensor `(..., m, n)` is a stack of blocks, each with its own ball: the norm is the
    largest over the blocks, the dual norm their sum. `polar` computes `U V^T`; the dual norm is
    `-<d, lmo(d)>` with the factor it gives, so both have its stated accuracy.

    Examples:
        >>> import torch
        >>> from normball.norms import Spectral
        >>> d = torch.tensor([[3.0, 4.0], [-4.0, 3.0]])  # five times a rotation
        >>> Spectral().lmo(d).round(decimals=2)
        tensor([[-0.6000, -0.8000],
                [ 0.8000, -0.6000]])
        >>> Spectral().norm(d).round(decimals=1), Spectral().dual_norm(d).round(decimals=1)
        (tensor(5.), tensor(10.))
    """

    scale: str = "rms"
    polar: Polar = field(default_factory=Auto)

    def __post_init__(self) -> None:
        if self.scale not in _SCALES:
            near = difflib.get_close_matches(str(self.scale), _SCALES, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ValueError(f"scale={self.scale!r} must be one of {_SCALES}{hint}")
        if not isinstance(self.polar, Polar):
            raise TypeError(
                f"polar={self.polar!r} must be an object of normball.polar, such as SVD()"
            )

    def check(self, shape: torch.Size) -> None:
        """Raise ValueError for fewer than two dimensions."""
        if len(shape) < 2:
            raise ValueError(
                f"{self} needs a matrix, got the shape {tuple(shape)}; use RMS() for vectors"
            )

    def norm(self, w: Tensor) -> Tensor:
        """Return the largest `sigma_max / s` of the blocks, from below, within 4e-5."""
        self.check(w.shape)
        sigma = largest_singular_value(as_working(self._matrices(w)))
        return saturate(sigma.amax() / self._gain(w.shape)) if sigma.numel() else sigma.sum()

    def lmo_and_dual(self, d: Tensor) -> tuple[Tensor, Tensor]:
        """Return `-s U V^T` and `s sum_i sigma_i`, summed over the blocks."""
        self.check(d.shape)
        return self._minimise(d, d.shape, self._matrices(d))

    def stacked_lmo_and_dual(self, d: Tensor) -> tuple[Tensor, Tensor]:
        """Return the minimisers for a stack `(k, ...)` by one batched factor, and the sum."""
        self.check(d.shape[1:])
        return self._minimise(d, d.shape[1:], self._matrices(d, 1))

    def free(self, shape: torch.Size) -> frozenset[int]:
        """Return all dimensions but those of a matrix."""
        return frozenset(range(len(shape) - 2))

    def polar_factor(self, shape: torch.Size) -> tuple[Polar, float] | None:
        """Return the polar factor and `s` of a single matrix; None for stacks and kernels."""
        return (self.polar, self._gain(shape)) if len(shape) == 2 else None

    @property
    def synchronises(self) -> bool:
        """Whether its polar factor waits for the device."""
        return self.polar.synchronises

    def flops(self, shape: torch.Size) -> float:
        """Return those of the polar factors of all blocks."""
        *stack, rows, columns = self._matrices(torch.empty(shape, device="meta")).shape
        return math.prod(stack) * self.polar.flops(rows, columns)

    def _minimise(self, d: Tensor, shape: torch.Size, matrices: Tensor) -> tuple[Tensor, Tensor]:
        factor, nuclear = self.polar(as_working(matrices))
        gain = self._gain(shape)
        dual = gain * known(nuclear.sum() if nuclear.ndim else nuclear)
        lmo = factor.mul_(-gain)
        lmo = lmo if lmo.shape == d.shape else lmo.reshape(d.shape)
        return in_dtype(lmo, d.dtype), saturated(dual, nuclear)

    def _onto_sphere(self, noise: Tensor) -> Tensor:
        factor, _ = SVD()(self._matrices(noise))
        return (self._gain(noise.shape) * factor).reshape(noise.shape)

    def _matrices(self, w: Tensor, lead: int = 0) -> Tensor:  # noqa: ARG002 (kernels need it)
        """Return `w` as matrices, behind `lead` dimensions of a stack."""
        return w

    def _gain(self, shape: torch.Size) -> float:
        """Return `s`."""
        return self._aspect(shape[-2], shape[-1])

    def _aspect(self, rows: int, columns: int) -> float:
        if self.scale == "plain" or not rows or not columns:
            return 1.0
        ratio = math.sqrt(rows / columns)
        return max(1.0, ratio) if self.scale == "input" else ratio


@dataclass(frozen=True)
class SpectralConv(Spectral):
    """The spectral norm of a convolution kernel `(c_out, c_in, *k)`, flattened to a matrix.

    With `K = prod(k)`, the flattened kernel `(c_out, c_in K)` and `s = sqrt(c_out / c_in) / K` for
    `scale="rms"`, `max(1, sqrt(c_out / c_in)) / K` for `"input"`, 1 for `"plain"`:
    `||W|| = sigma_max / s`, `lmo(d) = -s U V^T`, `||d||* = s sum_i sigma_i`. Kernels of one,
    two, three or more spatial dimensions, of any shape.

    Examples:
        >>> import torch
        >>> from normball.norms import SpectralConv
        >>> kernel = torch.ones(4, 1, 2, 2)  # a matrix (4, 4) of sigma_max = 4; s = sqrt(4 / 1) / 4
        >>> SpectralConv().norm(kernel).round(decimals=2)
        tensor(8.)
        >>> SpectralConv().lmo(kernel).shape
        torch.Size([4, 1, 2, 2])
    """

    def check(self, shape: torch.Size) -> None:
        """Raise ValueError for fewer than three dimensions."""
        if len(shape) < 3:
            raise ValueError(
                f"{self} needs a convolution kernel of at least three dimensions, got the shape "
                f"{tuple(shape)}; use Spectral() for matrices"
            )

    def free(self, shape: torch.Size) -> frozenset[int]:  # noqa: ARG002
        """Return none: a kernel is one matrix."""
        return frozenset()

    def _matrices(self, w: Tensor, lead: int = 0) -> Tensor:
        return w.flatten(lead + 1)

    def _gain(self, shape: torch.Size) -> float:
        taps = math.prod(shape[2:]) if self.scale != "plain" else 1
        return self._aspect(shape[0], shape[1]) / max(taps, 1)
