"""Norms made of other norms: over the layers of a network, or chosen by a tensor's shape."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from normball.norms.base import Norm
from normball.norms.spectral import Spectral, SpectralConv
from normball.norms.vector import RMS
from normball.polar import Polar

__all__ = ["ByShape", "Product"]


@dataclass(frozen=True)
class Product:
    """The norm `||x|| = max_l ||W_l||_l / r_l` of a network `x = (W_1, ..., W_D)`.

    It offers what a `Norm` does, on sequences of tensors: `lmo(d)_l = r_l lmo_l(d_l)` blockwise,
    `||d||* = sum_l r_l ||d_l||_l*`. All tensors share one dtype and device.

    Examples:
        >>> import torch
        >>> from normball.norms import Euclidean, Product, Sign
        >>> norm = Product([Euclidean(), Sign()], radii=[1.0, 10.0])
        >>> d = [torch.tensor([3.0, 4.0]), torch.tensor([1.0, -1.0])]
        >>> norm.lmo(d)
        [tensor([-0.6000, -0.8000]), tensor([-10.,  10.])]
        >>> norm.dual_norm(d)  # 1 * 5 + 10 * 2
        tensor(25.)
    """

    norms: tuple[Norm, ...]
    radii: tuple[float, ...]

    def __init__(self, norms: Sequence[Norm], radii: Sequence[float] | None = None) -> None:
        """Take one norm per block, and one positive radius per block (1 when None).

        Raises:
            ValueError: no norm, another number of radii than of norms, or a radius not positive.
        """
        radii = tuple(float(r) for r in radii) if radii is not None else (1.0,) * len(norms)
        if not norms:
            raise ValueError("a Product needs at least one norm")
        if len(radii) != len(norms):
            raise ValueError(f"{len(norms)} norms but {len(radii)} radii: give one for each")
        for radius in radii:
            if not 0 < radius < float("inf"):
                raise ValueError(f"radius={radius} must be positive and finite")
        object.__setattr__(self, "norms", tuple(norms))
        object.__setattr__(self, "radii", radii)

    def check(self, shapes: Sequence[torch.Size]) -> None:
        """Raise ValueError where a norm does not fit its block, or the number of blocks differs."""
        if len(shapes) != len(self.norms):
            raise ValueError(f"a Product of {len(self.norms)} norms got {len(shapes)} tensors")
        for norm, shape in zip(self.norms, shapes, strict=True):
            norm.check(shape)

    def norm(self, w: Sequence[Tensor]) -> Tensor:
        """Return `max_l ||W_l||_l / r_l`, 0-d."""
        self.check([x.shape for x in w])
        parts = [n.norm(x) / r for n, r, x in zip(self.norms, self.radii, w, strict=True)]
        return torch.stack(parts).amax()

    def lmo_and_dual(self, d: Sequence[Tensor]) -> tuple[list[Tensor], Tensor]:
        """Return `r_l lmo_l(d_l)` for every block, and `sum_l r_l ||d_l||_l*`, 0-d."""
        self.check([x.shape for x in d])
        pairs = [n.lmo_and_dual(x) for n, x in zip(self.norms, d, strict=True)]
        lmo = [r * v for r, (v, _) in zip(self.radii, pairs, strict=True)]
        duals = [r * dual for r, (_, dual) in zip(self.radii, pairs, strict=True)]
        return lmo, torch.stack(duals).sum()

    def lmo(self, d: Sequence[Tensor]) -> list[Tensor]:
        """Return the minimiser of `sum_l <d_l, x_l>` over the unit ball, block by block."""
        return self.lmo_and_dual(d)[0]

    def dual_norm(self, d: Sequence[Tensor]) -> Tensor:
        """Return `sum_l r_l ||d_l||_l*`, 0-d."""
        return self.lmo_and_dual(d)[1]

    def sharp(self, d: Sequence[Tensor]) -> list[Tensor]:
        """Return `-||d||* lmo(d)`, block by block."""
        lmo, dual = self.lmo_and_dual(d)
        return [(-dual * v).to(v.dtype) for v in lmo]

    def init_(
        self,
        w: Sequence[Tensor],
        radius: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> Sequence[Tensor]:
        """Fill every block with a random point of its sphere of radius `radius * r_l`."""
        self.check([x.shape for x in w])
        for norm, r, x in zip(self.norms, self.radii, w, strict=True):
            norm.init_(x, radius * r, generator)
        return w


@dataclass(frozen=True)
class ByShape(Norm):
    """The norm of a parameter of which only the shape is known.

    `RMS()` for scalars and vectors, `Spectral()` for matrices, `SpectralConv()` for
    tensors of three and more dimensions. `optimizer(model.parameters())` uses it. It treats an
    embedding table as a matrix, and a stack of experts as a kernel; `param_groups(model)` does not.

    Examples:
        >>> import torch
        >>> from normball.norms import ByShape, Spectral
        >>> ByShape().norm(torch.full((4,), 3.0))  # that of RMS()
        tensor(3.)
        >>> d = torch.ones(4, 2)
        >>> bool(ByShape().dual_norm(d) == Spectral().dual_norm(d))
        True
    """

    def check(self, shape: torch.Size) -> None:
        """Accept every shape."""

    def norm(self, w: Tensor) -> Tensor:
        """Return the norm that fits the shape."""
        return self._for(w.shape).norm(w)

    def lmo_and_dual(self, d: Tensor) -> tuple[Tensor, Tensor]:
        """Return minimiser and dual norm of the norm that fits the shape."""
        return self._for(d.shape).lmo_and_dual(d)

    def stacked_lmo_and_dual(self, d: Tensor) -> tuple[Tensor, Tensor]:
        """Return minimisers and the sum of dual norms of the norm that fits one tensor's shape."""
        return self._for(d.shape[1:]).stacked_lmo_and_dual(d)

    def stacked_norm(self, w: Tensor) -> Tensor:
        """Return the largest norm, of the one that fits one tensor's shape."""
        return self._for(w.shape[1:]).stacked_norm(w)

    def lines(self, shape: torch.Size) -> tuple[frozenset[int], float] | None:
        """Return the lines of the norm that fits the shape."""
        return self._for(shape).lines(shape)

    def polar_factor(self, shape: torch.Size) -> tuple[Polar, float] | None:
        """Return that of the norm that fits the shape."""
        return self._for(shape).polar_factor(shape)

    def free(self, shape: torch.Size) -> frozenset[int]:
        """Return the free dimensions of the norm that fits the shape."""
        return self._for(shape).free(shape)

    def flops(self, shape: torch.Size) -> float:
        """Return those of the norm that fits the shape."""
        return self._for(shape).flops(shape)

    def _onto_sphere(self, noise: Tensor) -> Tensor:
        return self._for(noise.shape)._onto_sphere(noise)

    @staticmethod
    def _for(shape: torch.Size) -> Norm:
        return _BY_DIMENSIONS[min(len(shape), 3)]


# Built once, because a compiled step cannot build a polar factor.
_BY_DIMENSIONS = (RMS(), RMS(), Spectral(), SpectralConv())
