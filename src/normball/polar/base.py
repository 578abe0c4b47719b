"""The common part of every polar factor: shapes, scale, entries that are not finite."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor

from normball._numeric import as_working, host_knows, in_dtype, peak, saturate, split_scale
from normball._scalar import Scalar, known

OfGram = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Takes `x x^T`, shape `(m, m)`, of a matrix `x` of `m` rows and no fewer columns.

Returns the root, shape `(m, m)`, with `root @ x` the factor of `x`, and `<x, factor>`, 0-d. The
largest entry of `x` is 0, NaN or about 1. The argument may be overwritten.
"""

# Squares of such entries, and of those a hundred million times smaller, neither overflow nor
# underflow. Scaling to a largest entry of 1 would gain nothing, and cost two passes and a copy.
LOW, HIGH = 1e-10, 1e10

# From this size on, large products and low memory matter more on a CPU than few calls.
_ALONE = 128


class Polar(ABC):
    """The orthogonal factor `U V^T` of a matrix with reduced SVD `U S V^T`.

    A subclass states its accuracy in two numbers: the relative error of `<x, factor>` as the
    nuclear norm, and the largest singular value of the factor.

    Examples:
        >>> import torch
        >>> from normball.norms import Spectral
        >>> from normball.polar import Polar
        >>> class Exact(Polar):
        ...     def _wide(self, x):  # of no more rows than columns, in 32 or 64 bit
        ...         u, s, vh = torch.linalg.svd(x, full_matrices=False)
        ...         return u @ vh, s.sum(-1)
        >>> Spectral("plain", polar=Exact()).dual_norm(torch.ones(4, 4)).round(decimals=2)
        tensor(4.)
    """

    synchronises: ClassVar[bool] = False
    """Whether a call waits for the device where that is not the CPU."""
    _any_scale: ClassVar[bool] = False
    """Whether `_wide` takes entries of any size."""

    def __call__(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the factor of each matrix and its inner product with that matrix.

        Args:
            x: shape `(..., m, n)`, any floating dtype and device; not changed.

        Returns:
            `factor`, shape `(..., m, n)` in the dtype of `x`, and `nuclear = <x, factor>`, shape
            `(...)` in float32 (float64 for float64 input). A zero matrix gives zeros. A matrix with
            an entry that is not finite gives NaN, and does not affect the other matrices of the
            batch. Finite input never raises.

        Raises:
            ValueError: `x` has fewer than two dimensions.
        """
        if x.ndim < 2:
            raise ValueError(f"a polar factor needs a matrix, got the shape {tuple(x.shape)}")
        work = as_working(x)
        if x.ndim > 2 and x.device.type == "cpu" and min(x.shape[-2:]) >= _ALONE and x.numel():
            return self._one_by_one(x, work)
        if x.numel() == 0:
            return x.clone(), work.new_zeros(x.shape[:-2])
        readable = work.ndim == 2 and host_knows(work)
        moderate = readable and LOW <= peak(work).item() <= HIGH
        tall = x.shape[-2] > x.shape[-1]
        if moderate or self._any_scale:
            factor, nuclear = self._wide(work.mT if tall else work)
        else:
            unit, scale = split_scale(work, (-2, -1))
            factor, nuclear = self._wide(unit.mT if tall else unit)
            nuclear = nuclear * scale.squeeze((-2, -1))
        factor = in_dtype(factor.mT if tall else factor, x.dtype)
        return factor, nuclear if moderate else saturate(nuclear)

    def _one_by_one(self, x: Tensor, work: Tensor) -> tuple[Tensor, Tensor]:
        factor, nuclear = x.new_empty(x.shape), work.new_empty(x.shape[:-2])
        sums = torch.unbind(nuclear.view(-1))
        for out, x_one, sum_one in zip(
            factor.flatten(0, -3), work.flatten(0, -3), sums, strict=True
        ):
            one, its_sum = self(x_one)
            out.copy_(one)
            sum_one.copy_(its_sum)
        return factor, nuclear

    def flops(self, rows: int, columns: int) -> float:
        """Return about how many operations one factor takes: here, by a decomposition.

        The Gram matrix and the root at half price, the last product in full, and `9 m^3` for the
        decomposition with vectors.
        """
        m, n = sorted((rows, columns))
        return 3.0 * n * m**2 + 10.0 * m**3

    def of_gram(
        self,
        dtype: torch.dtype,  # noqa: ARG002
        device: torch.device,  # noqa: ARG002
        shape: torch.Size,  # noqa: ARG002
    ) -> OfGram | None:
        """Return how to compute the factor from the Gram matrix alone, with the stated accuracy.

        So ranks that hold parts of a matrix need the sum of their Gram matrices, and not the matrix
        (`ranks_per_matrix` of the optimizers).

        Args:
            dtype: of the Gram matrix, float32 or float64.
            device: where it is.
            shape: of the matrix.

        Returns:
            The function, or None if this class needs the matrix itself.
        """
        return None

    @abstractmethod
    def _wide(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Do the same for `x` of shape `(..., m, n)`, `m <= n`, without changing `x`.

        Its largest entry is 0, NaN or about 1, so that no square over- or underflows, unless the
        class takes any scale.
        """


def per_matrix(x: Tensor) -> Scalar:
    """Return numbers of shape `(...)`, one for each matrix, such that they scale `(..., m, n)`."""
    return known(x) if x.ndim == 0 else x.unsqueeze(-1).unsqueeze(-1)


def dot(x: Tensor, y: Tensor) -> Tensor:
    """Return the inner product of each matrix of `x` with its partner in `y`; shape `(...)`."""
    if x.ndim == 2:
        return torch.dot(x.reshape(-1), y.reshape(-1))
    return torch.einsum("...ij,...ij->...", x, y)
