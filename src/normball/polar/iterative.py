"""Polar factors by odd polynomials: products of matrices and nothing else."""

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from normball.polar.base import Polar, dot
from normball.polar.products import add_to_diagonal, gram, symmetric

Quintic = tuple[float, float, float]
"""The coefficients `(a, b, c)` of `p(s) = a s + b s^3 + c s^5`."""

# Chosen by K. Jordan for Muon (2024): the steepest slope at zero that keeps singular values near 1.
MUON: Quintic = (3.4445, -4.7750, 2.0315)


@dataclass(frozen=True)
class NewtonSchulz(Polar):
    """Newton-Schulz with Muon's coefficients, every step the same quintic.

    Fast growth of small singular values, bought with accuracy: the iteration does not converge.

    Accuracy at 5 steps: `<x, factor>` is 10 to 20 % below the nuclear norm, and the largest
    singular value of the factor reaches 1.21. So `<d, lmo(d)>` is not the dual norm, and
    constrained iterates can leave their ball by a fifth. It is here to compare with Muon and Scion.
    """

    steps: int = 5

    def __post_init__(self) -> None:
        _check_steps(self.steps)

    def flops(self, rows: int, columns: int) -> float:
        """Return about how many operations one factor takes."""
        return _polynomial_flops(rows, columns, self.steps)

    def _wide(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return _iterate(x, (MUON,) * self.steps, tight=False)


@dataclass(frozen=True)
class PolarExpress(Polar):
    """The composition of quintics that is optimal for singular values in `[lower, 1]`.

    Each step is the best odd quintic for the interval that the step before left behind (Amsel et
    al., "The Polar Express", arXiv 2505.16932). The last one is scaled so that no singular value of
    the factor exceeds 1, as the guarantees of the constrained methods ask. `lower` is
    relative to the Schatten 8-norm, a tight and safe bound of the largest singular value that the
    first step gives away; smaller singular values are damped, not amplified.

    Accuracy in float32, over Gaussian matrices and spectra from 1 down to 1e-8: the nuclear norm
    is at most 0.06 % too small at the default, 0.25 % at 5 steps and `lower=5e-3`, 0.02 % at 8 and
    1e-3; the largest singular value is at most 1 + 1e-5.

    For a matrix of 64 rows or more, at least half as wide again as high, at 6 steps or fewer, all
    but two products with itself and two with small matrices happens on its Gram matrix ("Gram
    Newton-Schulz", Zhang, Amsel, Chen and Dao 2026). That is measured anew after the
    first steps, before rounding grows to count.
    """

    steps: int = 6
    lower: float = 2e-3
    dtype: torch.dtype | None = None
    """Of the products: that of the input, or `torch.bfloat16` where the device multiplies it fast.

    In bfloat16 at 6 steps and `lower=3e-3` the nuclear norm is within 0.2 % and the largest
    singular value at most 1.005, measured on the CPU.
    """

    def __post_init__(self) -> None:
        _check_steps(self.steps)
        if not 0 < self.lower < 1:
            raise ValueError(f"lower={self.lower} must lie in (0, 1); the default is 2e-3")
        if self.dtype not in (None, torch.bfloat16):
            raise ValueError(f"dtype={self.dtype} must be None or torch.bfloat16")

    def flops(self, rows: int, columns: int) -> float:
        """Return about how many operations one factor takes."""
        return _polynomial_flops(rows, columns, self.steps)

    def _wide(self, x: Tensor) -> tuple[Tensor, Tensor]:
        if self.dtype is not None:
            return _in_bfloat16(x, polar_express_coefficients(self.steps, self.lower, 0.01))
        quintics = polar_express_coefficients(self.steps, self.lower)
        return _iterate(x, quintics, tight=True, slack=_SLACK)


def _polynomial_flops(rows: int, columns: int, steps: int) -> float:
    """Return the operations of odd quintics, symmetric products at half price.

    Step by step `m + 3 n` products of `m^2` operations each; in the Gram form `6 n` in all and
    `4 k - 6` small ones.
    """
    m, n = sorted((rows, columns))
    return float(m * m * min(steps * (m + 3 * n), 6 * n + (4 * steps - 6) * m))


# Room for the rounding of the first part of the Gram form.
_SLACK = 1.005


@lru_cache
def polar_express_coefficients(
    steps: int, lower: float, margin: float = 0.001
) -> tuple[Quintic, ...]:
    """Return the greedy, and therefore optimal, quintics for singular values in `[lower, 1]`.

    Minimises `max |1 - p_steps(... p_1(s))|` over `s` in `[lower, 1]` (Theorem 3.1 of arXiv
    2505.16932), then scales the last quintic to stay at or below 1.
    Beyond its interval a quintic grows fast: `margin` leaves room for rounding upwards.
    """
    interval = (lower, 1.0)
    quintics = []
    for _ in range(steps):
        quintic, error = _best_quintic(interval[0], interval[1] * (1 + margin))
        quintics.append(quintic)
        interval = (1 - error, 1 + error)
    a, b, c = (coefficient / interval[1] for coefficient in quintics[-1])
    return (*quintics[:-1], (a, b, c))


def _best_quintic(low: float, high: float) -> tuple[Quintic, float]:
    """Return the odd quintic nearest to 1 on `[low, high]` and its largest error (Remez)."""
    if high - low < 1e-6 * high:
        # The limit of a vanishing interval, where the equations below lose all digits.
        mid = (low + high) / 2
        return (15 / 8 / mid, -10 / 8 / mid**3, 3 / 8 / mid**5), 0.0
    inside = (low + (high - low) / 4, low + 3 * (high - low) / 4)
    error = 0.0
    while True:
        # The error alternates: p(low) = 1 - e, then 1 + e, 1 - e, 1 + e.
        points = zip((low, *inside, high), (1.0, -1.0, 1.0, -1.0), strict=True)
        a, b, c, new_error = _solve([[s, s**3, s**5, sign, 1.0] for s, sign in points])
        # Where p' = a + 3b s^2 + 5c s^4 vanishes.
        spread = math.sqrt(9 * b * b - 20 * a * c)
        inside = (
            math.sqrt((-3 * b - spread) / (10 * c)),
            math.sqrt((-3 * b + spread) / (10 * c)),
        )
        if abs(new_error - error) <= 1e-14:
            return (a, b, c), new_error
        error = new_error


def _solve(rows: list[list[float]]) -> list[float]:
    """Return the solution of a small linear system, of rows `[coefficients..., right-hand side]`.

    In plain numbers, by elimination with pivots: a compiled or captured step may come here.
    """
    for i in range(len(rows)):
        pivot = max(range(i, len(rows)), key=lambda k: abs(rows[k][i]))
        rows[i], rows[pivot] = rows[pivot], rows[i]
        rows[i] = [x / rows[i][i] for x in rows[i]]
        for k, row in enumerate(rows):
            if k != i:
                rows[k] = [x - row[i] * y for x, y in zip(row, rows[i], strict=True)]
    return [row[-1] for row in rows]


def _iterate(
    x: Tensor, quintics: tuple[Quintic, ...], *, tight: bool, slack: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Apply the quintics to the singular values of `x / length`, and return `<x, result>` too.

    `length` is the Frobenius norm, or the Schatten 8-norm if `tight`.
    """
    small, square, length = _measure(x, tight)
    m, n = x.shape[-2:]
    split = _split(quintics)
    # Only where the products outweigh the number of calls, and save work by the wide factor's size.
    if m >= 64 and 2 * n >= 3 * m and split:
        y = _root(small, square, quintics[:split]).div_(length) @ x
        small = gram(y).div_(slack * slack)
        y = _root(small, symmetric(small, small), quintics[split:]).div_(slack) @ y
    else:
        y = _polynomial(small, square, quintics[0]).div_(length) @ x
        for quintic in quintics[1:]:
            small = gram(y)
            y = _polynomial(small, symmetric(small, small), quintic) @ y
    return y, dot(x, y)


def _in_bfloat16(x: Tensor, quintics: tuple[Quintic, ...]) -> tuple[Tensor, Tensor]:
    """Do the same with products in bfloat16, the measuring apart; never on the Gram matrix alone.

    Its rounding of 4e-3 must not be magnified.
    """
    y = (x / _measure(x, tight=True)[2]).bfloat16()
    for a, b, c in quintics:
        small = y @ y.mT
        # Sums in 32 bit, rounded once: `a` times `y` stays outside of the small matrix.
        y = _madd(y, _madd(small, small, small, b, c), y, a)
    y = y.to(x.dtype)
    return y, dot(x, y)


def _madd(start: Tensor, left: Tensor, right: Tensor, beta: float, alpha: float = 1.0) -> Tensor:
    """Return `beta * start + alpha * left @ right` in one call, for a matrix or a batch."""
    if start.ndim == 2:
        return torch.addmm(start, left, right, beta=beta, alpha=alpha)
    fused = torch.baddbmm(
        start.flatten(0, -3), left.flatten(0, -3), right.flatten(0, -3), beta=beta, alpha=alpha
    )
    return fused.view(start.shape)


def _measure(x: Tensor, tight: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Return `G = y y^T` and `G^2`, of shape `(..., m, m)`, and `length` for `y = x / length`.

    The Schatten 8-norm is the root of `|| (x x^T)^2 ||_F`: like the Frobenius norm never below the
    largest singular value, but for a Gaussian matrix 1.4 times that instead of `sqrt(m) / 2` times.
    """
    small = gram(x)
    trace = small.diagonal(dim1=-2, dim2=-1).sum(-1, keepdim=True).unsqueeze(-1)
    length = torch.where(trace == 0, 1, trace).sqrt()
    small.div_(length * length)
    square = symmetric(small, small)
    if tight:
        top = torch.linalg.vector_norm(square, dim=(-2, -1), keepdim=True).sqrt()
        top = torch.where(top == 0, 1, top)
        small.div_(top)
        square.div_(top * top)
        length = length * top.sqrt()
    return small, square, length


def _polynomial(small: Tensor, square: Tensor, quintic: Quintic) -> Tensor:
    """Return `a I + b small + c square`, in the memory of `square`; all of shape `(..., m, m)`."""
    a, b, c = quintic
    return add_to_diagonal(square.mul_(c).add_(small, alpha=b), a)


def _root(small: Tensor, square: Tensor, quintics: tuple[Quintic, ...]) -> Tensor:
    """Return the product of the steps' polynomials, of shape `(..., m, m)`; touches no wide matrix.

    With `q` the polynomial of a step, `G <- q(G) G q(G)` and `root <- root q(G)`. Where `root`
    magnifies by `f`, it magnifies the rounding of `G` by `f^2`.
    """
    root = q = _polynomial(small, square, quintics[0])
    for quintic in quintics[1:]:
        small = symmetric(q, symmetric(q, small))
        q = _polynomial(small, symmetric(small, small), quintic)
        root = symmetric(root, q)
    return root


@lru_cache
def _split(quintics: tuple[Quintic, ...]) -> int:
    """Return after how many steps the Gram form must measure `G` anew, or 0 if once is too few.

    The rounding of 6e-8 that the last part magnifies stays in the result (2e-5); of the first, the
    second forgives more (2e-3).
    """
    split = len(quintics)
    while split and math.prod(a for a, _, _ in quintics[split - 1 :]) <= 20:
        split -= 1
    return split if math.prod(a for a, _, _ in quintics[:split]) <= 160 else 0


def _check_steps(steps: int) -> None:
    if not (isinstance(steps, int) and steps >= 1):
        raise ValueError(f"steps={steps} must be a whole number of at least 1")
