"""The default polar factor."""

from dataclasses import dataclass

import torch
from torch import Tensor

from normball.polar.base import OfGram, Polar
from normball.polar.exact import SVD, Eigh
from normball.polar.half import Half
from normball.polar.iterative import Nonic, PolarExpress

# Below this size rounding to 16 bit does not average out, and products are cheap anyway.
_SMALLEST_IN_HALF = 64

# Up to this size products beat LAPACK on a CPU: 2.7 times at 64, in a batch, and not at all at 256.
_LARGEST_BY_PRODUCTS = 128

_SVD, _EIGH = SVD(), Eigh()
_SINGLE, _HALF = Nonic(), Half()
_DOUBLE = PolarExpress(20, 1e-6)


@dataclass(frozen=True)
class Auto(Polar):
    """The default: accurate enough for the guarantees of every method, whatever the device.

    - On the CPU `Nonic()` for matrices of up to 128 rows or columns and `Eigh()` for larger ones,
      each the fastest there; in float64 `SVD()`, for theory that must hold to the last digit.
    - On a CUDA GPU with tensor cores (from Volta on), for matrices of 64 rows and columns or more,
      `Half()`.
    - Elsewhere, and for smaller matrices, `Nonic()`; in float64 `PolarExpress(20, 1e-6)`.

    Off the CPU nothing waits for the device. In float32 the nuclear norm is at most 0.2 % too small
    for Gaussian matrices and even spectra, and up to 1.2 % on momenta of a small GPT. The largest
    singular value of the factor is at most 1 + 1e-3 (in float16 1 + 2e-3). To force a factor, give
    it to the norm: `Spectral(polar=Nonic())`.

    Examples:
        >>> import torch
        >>> from normball.polar import Auto
        >>> u, nuclear = Auto()(torch.randn(5, 3))
        >>> torch.allclose(u.T @ u, torch.eye(3), atol=0.01)
        True
        >>> Auto.choice(torch.float64, torch.device("cpu"), torch.Size([5, 3]))
        SVD()
    """

    def __call__(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the factor of each matrix and its inner product with it, as `Polar` says."""
        if x.ndim < 2:
            return super().__call__(x)  # which refuses it
        return self.choice(x.dtype, x.device, x.shape)(x)

    def of_gram(self, dtype: torch.dtype, device: torch.device, shape: torch.Size) -> OfGram | None:
        """Return that of the factor for such matrices; that of `Nonic` in place of `Half`."""
        chosen = self.choice(dtype, device, shape)
        # Every step of `Half` multiplies the matrix itself.
        chosen = _SINGLE if chosen is _HALF else chosen
        return chosen.of_gram(dtype, device, shape)

    def _wide(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.choice(x.dtype, x.device, x.shape)._wide(x)

    @staticmethod
    def choice(dtype: torch.dtype, device: torch.device, shape: torch.Size) -> Polar:
        """Return the factor that is used for tensors of this dtype, device and shape."""
        double, size = dtype == torch.float64, min(shape[-2:])
        if device.type == "cpu":
            small = size <= _LARGEST_BY_PRODUCTS
            return _SVD if double else _SINGLE if small else _EIGH
        if double:
            return _DOUBLE
        large = size >= _SMALLEST_IN_HALF
        return _HALF if large and _multiplies_half(device) else _SINGLE


def _multiplies_half(device: torch.device) -> bool:
    """Tell whether a device multiplies float16 in hardware; this does not wait for the device."""
    return (
        device.type == "cuda"
        and torch.cuda.is_available()
        and torch.cuda.get_device_capability(device) >= (7, 0)
    )
