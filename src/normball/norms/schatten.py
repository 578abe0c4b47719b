"""Norms of the singular values, other than the largest singular value."""

import math
from abc import abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.linalg import LinAlgError  # type: ignore[attr-defined]

from normball._numeric import as_working, saturate, split_scale
from normball.norms.base import Norm

__all__ = ["Nuclear", "Schatten"]


class _SingularValueNorm(Norm):
    """A norm computed from a full SVD; a tensor `(..., m, n)` is a stack of blocks."""

    @property
    def synchronises(self) -> bool:
        """True: every decomposition waits for the device."""
        return True

    def check(self, shape: torch.Size) -> None:
        """Raise ValueError for fewer than two dimensions."""
        if len(shape) < 2:
            raise ValueError(f"{self} needs a matrix, got the shape {tuple(shape)}")

    def norm(self, w: Tensor) -> Tensor:
        """Return the norm of the singular values, the largest over the blocks, 0-d."""
        self.check(w.shape)
        if w.numel() == 0:
            return as_working(w).sum()
        _, sigma, _, scale = _svd(w)
        return saturate((self._length(sigma) * scale).amax())

    def lmo_and_dual(self, d: Tensor) -> tuple[Tensor, Tensor]:
        """Return the minimiser of every block, and the sum of their dual norms, 0-d."""
        self.check(d.shape)
        if d.numel() == 0:
            return d.clone(), as_working(d).sum()
        u, sigma, vh, scale = _svd(d)
        step, dual = self._minimise(sigma)
        lmo = (u * -step.unsqueeze(-2)) @ vh + 0 * scale[..., None, None]
        return lmo.to(d.dtype), saturate((dual * scale).sum())

    def free(self, shape: torch.Size) -> frozenset[int]:
        """Return all dimensions but those of a matrix."""
        return frozenset(range(len(shape) - 2))

    def flops(self, shape: torch.Size) -> float:
        """Return those of the decompositions of all blocks."""
        *stack, rows, columns = shape
        small, large = sorted((rows, columns))
        return math.prod(stack) * (6.0 * large + 20.0 * small) * small**2

    @abstractmethod
    def _length(self, sigma: Tensor) -> Tensor:
        """Return the norm of singular values `(..., r)`, of which the largest is about 1."""

    @abstractmethod
    def _minimise(self, sigma: Tensor) -> tuple[Tensor, Tensor]:
        """Return the singular values of `-lmo`, shape `(..., r)`, and the dual norm, `(...)`."""


def _svd(x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return `U, S, V^T` of `x / scale` and `scale`, shape `(...)`; NaN where x is not finite."""
    unit, scale = split_scale(as_working(x), (-2, -1))
    bad = ~torch.isfinite(scale)
    unit = torch.where(bad, 0, unit)
    try:
        u, sigma, vh = torch.linalg.svd(unit, full_matrices=False)
    except LinAlgError:
        # LAPACK's divide and conquer can fail in single precision where it converges in double,
        # which not every device has.
        double = unit.cpu().double()
        u, sigma, vh = (part.to(unit) for part in torch.linalg.svd(double, full_matrices=False))
    return u, sigma, vh, torch.where(bad, torch.nan, scale)[..., 0, 0]


@dataclass(frozen=True)
class Schatten(_SingularValueNorm):
    """The p-norm of the singular values, with `p` in `(1, inf)`; its dual is Schatten-q.

    With `1/p + 1/q = 1` and the SVD `d = U diag(s) V^T`: `lmo(d) = -U diag((s / ||s||_q)^(q-1))
    V^T`, `||d||* = ||s||_q`. The ends are `Nuclear()` and `Spectral("plain")`; `p = 2` is
    `Euclidean()`. Every block of a stack `(..., m, n)` has its own ball. Exact to the dtype's
    rounding; each call takes a full SVD, which synchronises on a GPU.

    Examples:
        >>> import torch
        >>> from normball.norms import Schatten
        >>> norm, d = Schatten(4.0), torch.eye(16)  # of norms 16^(1/4) and 16^(3/4)
        >>> norm.norm(d).round(decimals=2), norm.dual_norm(d).round(decimals=2)
        (tensor(2.), tensor(8.))
        >>> torch.allclose(norm.lmo(d), -d / 2)
        True
    """

    p: float

    def __post_init__(self) -> None:
        if not 1 < self.p < float("inf"):
            raise ValueError(
                f"p={self.p} must lie in (1, inf); use Nuclear() for p = 1 and Spectral('plain') "
                "for p = inf"
            )

    def _length(self, sigma: Tensor) -> Tensor:
        length: Tensor = torch.linalg.vector_norm(sigma, self.p, dim=-1)
        return length

    def _minimise(self, sigma: Tensor) -> tuple[Tensor, Tensor]:
        q = self.p / (self.p - 1)
        length = torch.linalg.vector_norm(sigma, q, dim=-1)
        divisor = torch.where(length == 0, 1, length)
        return (sigma / divisor.unsqueeze(-1)) ** (q - 1), length


@dataclass(frozen=True)
class Nuclear(_SingularValueNorm):
    """The sum of the singular values; its dual is the largest one.

    With the leading singular vectors `u_1, v_1`: `lmo(d) = -u_1 v_1^T`, `||d||* = s_1`. Steps of
    rank one, for low-rank solutions. Every block of a stack `(..., m, n)` has its own ball. Exact
    to the dtype's rounding; each call takes a full SVD, which synchronises on a GPU.

    Examples:
        >>> import torch
        >>> from normball.norms import Nuclear
        >>> d = torch.tensor([[2.0, 1.0], [1.0, 2.0]])  # of singular values 3 and 1
        >>> Nuclear().lmo(d)
        tensor([[-0.5000, -0.5000],
                [-0.5000, -0.5000]])
        >>> Nuclear().dual_norm(d).round(decimals=2)
        tensor(3.)
    """

    def _length(self, sigma: Tensor) -> Tensor:
        return sigma.sum(-1)

    def _minimise(self, sigma: Tensor) -> tuple[Tensor, Tensor]:
        first = torch.zeros_like(sigma)
        first[..., 0] = sigma[..., 0] > 0
        return first, sigma[..., 0]
