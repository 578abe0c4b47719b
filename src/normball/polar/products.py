"""Products with a symmetric result: one triangle is copied, not computed."""

import torch
from torch import Tensor

# Below this number of rows, a block makes the matrix product slow.
_SMALLEST = 256
_ROWS = 96


def gram(x: Tensor) -> Tensor:
    """Return `x x^T`: shape `(..., m, n)` to `(..., m, m)`."""
    return symmetric(x, x.mT)


def symmetric(a: Tensor, b: Tensor) -> Tensor:
    """Return `a b`, where the caller knows that it is symmetric.

    For one large matrix on the CPU, each block of rows is computed up to the diagonal and mirrored.
    That is 5/8 of the work with four blocks, 9/16 with eight. The result is symmetric to the last
    bit, except within the blocks on the diagonal, which are as symmetric as the matrix product is.
    Otherwise it is a plain product: for a batch, or on a GPU, the blocks would be too small.

    Args:
        a: shape `(..., m, k)`.
        b: shape `(..., k, m)`.
    """
    m = a.shape[-2]
    if a.ndim > 2 or m < _SMALLEST or a.device.type != "cpu":
        return a @ b
    out = a.new_empty(m, m)
    for low in range(0, m, _ROWS):
        high = min(low + _ROWS, m)
        block = torch.mm(a[low:high], b[:, :high], out=out[low:high, :high])
        if low:
            out[:low, low:high].copy_(block[:, :low].mT)
    return out


def symmetric_sum(
    c: Tensor, a: Tensor, b: Tensor, *, beta: float = 1.0, alpha: float = 1.0
) -> Tensor:
    """Return `beta c + alpha a b`, all of shape `(..., m, m)`, where it is symmetric.

    One call for one small matrix; there calls are the cost.
    """
    m = a.shape[-1]
    if a.ndim == 2 and m >= _SMALLEST and a.device.type == "cpu":
        return symmetric(a, b).mul_(alpha).add_(c, alpha=beta)
    return add_product(c, a, b, beta=beta, alpha=alpha)


def add_product(
    c: Tensor, a: Tensor, b: Tensor, *, beta: float = 1.0, alpha: float = 1.0
) -> Tensor:
    """Return `beta c + alpha a b`, of shapes `(..., m, n)`, `(..., m, k)` and `(..., k, n)`."""
    if a.ndim == 2:
        return torch.addmm(c, a, b, beta=beta, alpha=alpha)
    if a.ndim == 3:
        return torch.baddbmm(c, a, b, beta=beta, alpha=alpha)
    return (a @ b).mul_(alpha).add_(c, alpha=beta)


def add_to_diagonal(x: Tensor, value: Tensor | float) -> Tensor:
    """Add `value`, a number or of shape `(..., 1)`, to the diagonal of `x` in place; return `x`."""
    x.diagonal(dim1=-2, dim2=-1).add_(value)
    return x
