"""Norms over the rows or the columns of a matrix. Kernels are flattened to `(shape[0], rest)`."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from normball._numeric import as_working, saturate, split_scale
from normball.norms.base import Norm

__all__ = ["Column", "Row"]


def _check_matrix(norm: Norm, shape: torch.Size) -> None:
    if len(shape) < 2:
        raise ValueError(
            f"{norm} needs a matrix, got the shape {tuple(shape)}; use RMS() for vectors"
        )


def _largest_line(w: Tensor, dim: int) -> Tensor:
    """Return the largest Euclidean norm of the lines of a matrix along `dim`, 0-d."""
    if w.numel() == 0:
        return w.sum()
    unit, scale = split_scale(w)
    # A second scale per line would only matter for lines that are not the largest.
    return saturate(torch.linalg.vector_norm(unit, dim=dim).amax() * scale)


def _normalised_lines(d: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """Return every line of a matrix along `dim` at length 1 (0 at 0), and the sum of lengths."""
    unit, scale = split_scale(d, dim)
    length = torch.linalg.vector_norm(unit, dim=dim, keepdim=True)
    unit = unit / torch.where(length == 0, 1, length)
    shares, largest = split_scale(scale)
    # A NaN in one line makes the whole tensor NaN.
    return unit + 0 * largest, saturate((shares * length).sum() * largest)


@dataclass(frozen=True)
class Column(Norm):
    """The largest RMS of a column, the norm 1 -> RMS of a matrix `(d_out, d_in)`.

    `||W|| = max_j ||W_:j||_2 / sqrt(d_out)`, `lmo(d)_:j = -sqrt(d_out) d_:j / ||d_:j||_2`,
    `||d||* = sqrt(d_out) sum_j ||d_:j||_2`. For layers with one-hot inputs. `transposed=True` for
    tables stored `(d_in, d_out)`, one row per input, as `torch.nn.Embedding` does.

    Examples:
        >>> import torch
        >>> from normball.norms import Column
        >>> d = torch.tensor([[2.0, 2.0, 2.0, 2.0], [-1.0, 1.0, -1.0, 1.0]])  # a table of two rows
        >>> Column(transposed=True).lmo(d)
        tensor([[-1., -1., -1., -1.],
                [ 1., -1.,  1., -1.]])
        >>> Column(transposed=True).dual_norm(d)  # sqrt(4) * (4 + 2)
        tensor(12.)
    """

    transposed: bool = False

    def check(self, shape: torch.Size) -> None:
        """Raise ValueError for fewer than two dimensions."""
        _check_matrix(self, shape)

    def norm(self, w: Tensor) -> Tensor:
        """Return `max_j ||W_:j||_2 / sqrt(d_out)`."""
        self.check(w.shape)
        matrix = as_working(w).flatten(1)
        dim = self._dim
        return _largest_line(matrix, dim) / math.sqrt(max(matrix.shape[dim], 1))

    def lmo_and_dual(self, d: Tensor) -> tuple[Tensor, Tensor]:
        """Return `-sqrt(d_out) d_:j / ||d_:j||_2` and `sqrt(d_out) sum_j ||d_:j||_2`."""
        self.check(d.shape)
        matrix = as_working(d).flatten(1)
        unit, total = _normalised_lines(matrix, self._dim)
        root = math.sqrt(matrix.shape[self._dim])
        return (-root * unit).reshape(d.shape).to(d.dtype), saturate(root * total)

    def lines(self, shape: torch.Size) -> tuple[frozenset[int], float]:
        """Return the columns and `sqrt(d_out)`; of a flattened kernel, those of its matrix."""
        along = range(1, len(shape)) if self.transposed else range(1)
        return frozenset(along), math.sqrt(math.prod([shape[dim] for dim in along]))

    @property
    def _dim(self) -> int:
        return 1 if self.transposed else 0


@dataclass(frozen=True)
class Row(Norm):
    """The largest Euclidean norm of a row, scaled: the norm RMS -> max of a `(d_out, d_in)` matrix.

    `||W|| = sqrt(d_in) max_i ||W_i:||_2`, `lmo(d)_i: = -d_i: / (sqrt(d_in) ||d_i:||_2)`,
    `||d||* = sum_i ||d_i:||_2 / sqrt(d_in)`. For output layers.

    Examples:
        >>> import torch
        >>> from normball.norms import Row
        >>> d = torch.tensor([[2.0, 2.0, 2.0, 2.0], [-1.0, 1.0, -1.0, 1.0]])
        >>> Row().lmo(d)
        tensor([[-0.2500, -0.2500, -0.2500, -0.2500],
                [ 0.2500, -0.2500,  0.2500, -0.2500]])
        >>> Row().dual_norm(d)  # (4 + 2) / sqrt(4)
        tensor(3.)
    """

    def check(self, shape: torch.Size) -> None:
        """Raise ValueError for fewer than two dimensions."""
        _check_matrix(self, shape)

    def norm(self, w: Tensor) -> Tensor:
        """Return `sqrt(d_in) max_i ||W_i:||_2`."""
        self.check(w.shape)
        matrix = as_working(w).flatten(1)
        return saturate(_largest_line(matrix, 1) * math.sqrt(matrix.shape[1]))

    def lmo_and_dual(self, d: Tensor) -> tuple[Tensor, Tensor]:
        """Return `-d_i: / (sqrt(d_in) ||d_i:||_2)` and `sum_i ||d_i:||_2 / sqrt(d_in)`."""
        self.check(d.shape)
        matrix = as_working(d).flatten(1)
        unit, total = _normalised_lines(matrix, 1)
        root = math.sqrt(max(matrix.shape[1], 1))
        return (unit / -root).reshape(d.shape).to(d.dtype), total / root

    def lines(self, shape: torch.Size) -> tuple[frozenset[int], float]:
        """Return the rows and `1 / sqrt(d_in)`."""
        along = range(1, len(shape))
        return frozenset(along), 1 / math.sqrt(max(math.prod(shape[1:]), 1))
