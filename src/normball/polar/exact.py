"""Polar factors from a decomposition."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.linalg import LinAlgError  # type: ignore[attr-defined]

from normball.polar.base import OfGram, Polar
from normball.polar.iterative import (
    PolarExpress,
    of_gram_by_products,
    polar_express_coefficients,
)
from normball.polar.products import add_to_diagonal, gram, symmetric


@dataclass(frozen=True)
class SVD(Polar):
    """The polar factor from a full singular value decomposition.

    Singular values of at most `max(m, n, 16) * eps` relative to the largest, and no more than 2e-6,
    count as zero and are left out: the factor of a rank-deficient matrix is its partial isometry,
    without rounding noise. That noise was measured up to 0.45 of the first bound. In float32 it can
    exceed 2e-6 if many rows are equal, but a higher bound would cut real spectra.

    Accuracy: that of the dtype. The relative errors of the nuclear norm and of the largest singular
    value are at most `min(m, n) eps`, LAPACK's own; a sixth of that was measured, 3e-6 in float32
    and 1e-14 in float64 at 256 rows. The values left out are up to 2e-6 of the nuclear norm in
    float32.
    LAPACK runs on the CPU without waiting for a device; on a GPU each call synchronises.

    Examples:
        >>> import torch
        >>> from normball.polar import SVD
        >>> x = torch.randn(5, 3)
        >>> u, nuclear = SVD()(x)
        >>> torch.allclose(u.T @ u, torch.eye(3), atol=1e-5)
        True
        >>> torch.allclose(nuclear, torch.linalg.matrix_norm(x, "nuc"))
        True
    """

    synchronises: ClassVar[bool] = True

    def _wide(self, x: Tensor) -> tuple[Tensor, Tensor]:
        bad = ~torch.isfinite(x.sum((-2, -1), keepdim=True))
        factor, nuclear = _or_last_resort(_svd, torch.where(bad, 0, x))
        return torch.where(bad, torch.nan, factor), nuclear


@dataclass(frozen=True)
class Eigh(Polar):
    """The polar factor from a shifted eigendecomposition of the smaller Gram matrix.

    Computes `(X X^T + shift * lambda I)^(-1/2) X`, where `lambda` is close to the largest
    eigenvalue. The shift is added before the decomposition: it keeps the small eigenvalues away
    from the rounding of the Gram matrix, so that no singular value of the factor exceeds 1 and
    LAPACK converges on rank-deficient input. A singular value `s` of `X` becomes
    `s / sqrt(s^2 + shift * lambda)`: of 1 %, 0.2 % and 0.1 % of the largest, 0.98, 0.71 and 0.45
    are left. The eigenvalues give `<X, factor>` without another product.

    Accuracy in float32, over Gaussian matrices and spectra from 1 down to 1e-6: the nuclear norm is
    at most 0.2 % too small, the largest singular value at most 1 + 3e-4. If most singular values
    are below 1 % of the largest, more is missing: 0.2 to 1.2 % on momenta of a small GPT
    (`results/speed/2026-11-28-cheaper-factors`). Rounding of the Gram
    matrix adds up to `3 eps / sqrt(shift)`, 0.02 %. In float64 the error is at most 1e-6. On a GPU
    each call synchronises; on Apple's the decomposition itself is done on the CPU.

    Examples:
        >>> import torch
        >>> from normball.polar import Eigh
        >>> u, nuclear = Eigh()(torch.randn(5, 3))
        >>> torch.allclose(u.T @ u, torch.eye(3), atol=1e-3)
        True
    """

    synchronises: ClassVar[bool] = True

    shift: float = 4e-6
    """Relative to the largest eigenvalue of the Gram matrix; 1e-13 at most in float64."""

    def __post_init__(self) -> None:
        if not 0 < self.shift < 1:
            raise ValueError(f"shift={self.shift} must lie in (0, 1); the default is 4e-6")

    def of_gram(
        self,
        dtype: torch.dtype,  # noqa: ARG002
        device: torch.device,  # noqa: ARG002
        shape: torch.Size,  # noqa: ARG002
    ) -> OfGram:
        """Return how to compute the factor from the Gram matrix, as this class does anyway."""
        return self._of_gram

    def _of_gram(self, small: Tensor) -> tuple[Tensor, Tensor]:
        small, floor, length = self._shifted(small)
        try:
            return _shifted_root(small, floor, length)
        except LinAlgError:
            # As the last resort for matrices, but less steep: the Gram matrix has half the digits.
            odds = polar_express_coefficients(6, 2e-3)
            root, nuclear = of_gram_by_products(small, odds, tight=True)
            return root / length, nuclear * length[0, 0]

    def _wide(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return _or_last_resort(_by_root, x, *self._shifted(gram(x)))

    def _shifted(self, small: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return Gram matrices divided by their traces, their shifts, and the roots of the traces.

        Shifts and roots have shape `(..., 1, 1)`. The argument is overwritten.
        """
        bad = ~torch.isfinite(small.sum((-2, -1), keepdim=True))
        small = small.nan_to_num_(0, 0, 0)
        trace = small.diagonal(dim1=-2, dim2=-1).sum(-1, keepdim=True).unsqueeze(-1)
        trace = torch.where(trace == 0, 1, trace)
        small.div_(trace)
        shift = min(self.shift, 1e-13) if small.dtype == torch.float64 else self.shift
        floor = shift * _near_largest_eigenvalue(small)
        # The decomposition must also work for a zero matrix, and give zero.
        floor = torch.where(floor == 0, 1, floor)
        return small, floor, torch.where(bad, torch.nan, trace.sqrt())


def _svd(x: Tensor) -> tuple[Tensor, Tensor]:
    u, s, vh = torch.linalg.svd(x, full_matrices=False)
    cutoff = min(max(*x.shape[-2:], 16) * torch.finfo(x.dtype).eps, 2e-6)
    kept = s > cutoff * s[..., :1]
    return (u * kept.unsqueeze(-2)) @ vh, (s * kept).sum(-1)


def _by_root(x: Tensor, small: Tensor, floor: Tensor, length: Tensor) -> tuple[Tensor, Tensor]:
    root, nuclear = _shifted_root(small, floor, length)
    return root @ x, nuclear


def _shifted_root(small: Tensor, floor: Tensor, length: Tensor) -> tuple[Tensor, Tensor]:
    """Return `(small + floor I)^(-1/2) / length`, for `x / length` of Gram matrix `small`.

    And the inner product of `x` with its factor. `floor` and `length` have shape `(..., 1, 1)`.
    """
    eigenvalues, q = _eigh(add_to_diagonal(small.clone(), floor[..., 0]))
    eigenvalues = eigenvalues.clamp(min=floor[..., 0] / 4)
    inverse_root = eigenvalues.rsqrt()
    # <X, factor> = trace(small @ root); each eigenvalue of small is the shifted one less the floor.
    nuclear = ((eigenvalues - floor[..., 0]) * inverse_root).sum(-1) * length[..., 0, 0]
    return symmetric(q * (inverse_root / length[..., 0]).unsqueeze(-2), q.mT), nuclear


def _eigh(x: Tensor) -> tuple[Tensor, Tensor]:
    """Decompose symmetric matrices, reading only the upper half."""
    if x.device.type != "mps":
        eigenvalues, q = torch.linalg.eigh(x, UPLO="U")
        return eigenvalues, q
    # Apple's GPUs have no eigendecomposition.
    eigenvalues, q = torch.linalg.eigh(x.cpu(), UPLO="U")
    return eigenvalues.to(x.device), q.to(x.device)


def _near_largest_eigenvalue(gram: Tensor) -> Tensor:
    """Estimate the largest eigenvalue from below by power steps; `(..., m, m)` to `(..., 1, 1)`."""
    start = gram.diagonal(dim1=-2, dim2=-1).argmax(-1, keepdim=True).unsqueeze(-2)
    vector = torch.take_along_dim(gram, start, -1)
    for _ in range(4):
        vector = gram @ (gram @ _unit(vector))
    growth: Tensor = torch.linalg.vector_norm(gram @ _unit(vector), dim=(-2, -1), keepdim=True)
    return growth


def _unit(vector: Tensor) -> Tensor:
    """Divide vectors `(..., m, 1)` by their lengths; zero stays zero."""
    length = torch.linalg.vector_norm(vector, dim=(-2, -1), keepdim=True)
    unit: Tensor = vector / length.clamp(min=torch.finfo(vector.dtype).tiny)
    return unit


def _or_last_resort(
    decompose: Callable[..., tuple[Tensor, Tensor]], x: Tensor, *more: Tensor
) -> tuple[Tensor, Tensor]:
    """Call `decompose(x, *more)`; iterate instead on a matrix where LAPACK does not converge."""
    try:
        return decompose(x, *more)
    except LinAlgError:
        if x.ndim == 2:
            # It only multiplies, so it cannot fail; it converges for singular values from 1e-5 on.
            return PolarExpress(steps=14, lower=1e-5)._wide(x)
        # One matrix makes the whole batch fail: find it, and leave the others as they are.
        parts = [_or_last_resort(decompose, *one) for one in zip(x, *more, strict=True)]
        factors, nuclears = zip(*parts, strict=True)
        return torch.stack(factors), torch.stack(nuclears)
