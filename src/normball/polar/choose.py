"""The polar factor that is used when none is named."""

from dataclasses import dataclass

import torch
from torch import Tensor

from normball.polar.base import Polar
from normball.polar.exact import SVD, Eigh
from normball.polar.iterative import PolarExpress


@dataclass(frozen=True)
class Auto(Polar):
    """The default: accurate enough for the guarantees of every method, whatever the device.

    `SVD()` for float64, where one wants theory to hold to the last digit; `Eigh()` on the CPU,
    where it is also the fastest; `PolarExpress()` elsewhere, which never waits for
    the device. In float32 the nuclear norm is at most 0.2 % too small and the largest
    singular value of the factor at most 1 + 3e-4.
    """

    def _wide(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.choice(x.dtype, x.device)._wide(x)

    @staticmethod
    def choice(dtype: torch.dtype, device: torch.device) -> Polar:
        """Return the factor that is used for tensors of this dtype on this device."""
        if device.type == "cpu":
            return SVD() if dtype == torch.float64 else Eigh()
        return PolarExpress(steps=20, lower=1e-6) if dtype == torch.float64 else PolarExpress()
