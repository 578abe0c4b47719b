"""Polar factors by odd polynomials, computed with matrix products only."""

import math
from dataclasses import dataclass, field
from functools import lru_cache, partial
from typing import ClassVar

import torch
from torch import Tensor

from normball._scalar import Scalar, sqrt, where
from normball.polar.base import OfGram, Polar, dot, per_matrix
from normball.polar.products import (
    add_product,
    add_to_diagonal,
    gram,
    symmetric,
    symmetric_sum,
)

Quintic = tuple[float, float, float]
"""The coefficients `(a, b, c)` of `p(s) = a s + b s^3 + c s^5`."""

Odd = tuple[float, ...]
"""Those of an odd polynomial of degree 5 or 9, from the lowest power on."""

# Chosen by K. Jordan for Muon (2024): the steepest slope at zero that keeps singular values near 1.
MUON: Quintic = (3.4445, -4.7750, 2.0315)


class _ByProducts(Polar):
    """A composition of odd polynomials."""

    _odds: tuple[Odd, ...]
    _tight: ClassVar[bool] = True
    """Whether singular values are relative to the Schatten 8-norm; else to the Frobenius norm."""

    def flops(self, rows: int, columns: int) -> float:
        """Return about how many operations one factor takes."""
        return _flops(rows, columns, self._odds)

    def of_gram(
        self,
        dtype: torch.dtype,  # noqa: ARG002
        device: torch.device,  # noqa: ARG002
        shape: torch.Size,  # noqa: ARG002
    ) -> OfGram | None:
        """Return how to compute the factor from the Gram matrix, if that is accurate enough.

        None if the slope at zero exceeds 1400, which magnifies the rounding too much.
        """
        if _slope(self._odds) > _STEEPEST:
            return None
        return partial(of_gram_by_products, odds=self._odds, tight=self._tight)

    def _wide(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return _iterate(x, self._odds, tight=self._tight)


@dataclass(frozen=True)
class NewtonSchulz(_ByProducts):
    """Newton-Schulz with Muon's coefficients, every step the same quintic.

    Small singular values grow fast, at the cost of accuracy: the iteration does not converge.

    Accuracy at 5 steps: `<x, factor>` is 10 to 20 % below the nuclear norm, and the largest
    singular value of the factor reaches 1.21. So `<d, lmo(d)>` is not the dual norm, and
    constrained iterates can leave their ball by a fifth. It serves to compare with Muon and Scion.

    Examples:
        >>> import torch
        >>> from normball.polar import NewtonSchulz
        >>> u, nuclear = NewtonSchulz()(torch.eye(3))
        >>> u[0, 0].round(decimals=2), nuclear.round(decimals=2)  # not 1 and 3
        (tensor(0.6900), tensor(2.0600))
    """

    _tight: ClassVar[bool] = False

    steps: int = 5
    _odds: tuple[Odd, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        _check_steps(self.steps)
        object.__setattr__(self, "_odds", (MUON,) * self.steps)


@dataclass(frozen=True)
class PolarExpress(_ByProducts):
    """The composition of quintics that is optimal for singular values in `[lower, 1]`.

    Each step is the best odd quintic for the interval of singular values after the step before it
    (Amsel et al., "The Polar Express", arXiv 2505.16932). The last one is scaled so that no
    singular value of the factor exceeds 1, which the guarantees of the constrained methods need.
    `lower` is relative to the Schatten 8-norm, a tight and safe bound of the largest singular value
    that the first step computes at no cost. Smaller singular values are damped, not amplified.

    Accuracy in float32, over Gaussian matrices and spectra from 1 down to 1e-8: the nuclear norm
    is at most 0.06 % too small at the default, 0.25 % at 5 steps and `lower=5e-3`, 0.02 % at 8 and
    1e-3; the largest singular value is at most 1 + 5e-3. Rounding adds up to `3 eps / lower`.

    For a matrix of 64 rows or more, whose longer side is at least 1.5 times the shorter one, only
    the first and the last product have the size of the matrix; all others have the size of the
    shorter side ("Gram Newton-Schulz", Zhang, Amsel, Chen and Dao 2026). This is not done if
    `lower` is too small for the precision of the Gram matrix.

    Examples:
        >>> import torch
        >>> from normball.polar import PolarExpress
        >>> u, nuclear = PolarExpress(steps=8, lower=1e-3)(torch.randn(5, 3))
        >>> torch.allclose(u.T @ u, torch.eye(3), atol=0.01)
        True
    """

    steps: int = 6
    lower: float = 2e-3
    _odds: tuple[Odd, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        _check_steps(self.steps)
        _check_lower(self.lower, 2e-3)
        odds = polar_express_coefficients(self.steps, self.lower)
        object.__setattr__(self, "_odds", odds)


@dataclass(frozen=True)
class Nonic(_ByProducts):
    """Like `PolarExpress`, with polynomials of degree 9, and a quintic at the end.

    In terms of the Gram matrix a polynomial of degree 9 takes one product more than a quintic,
    and four compose to degree 3645: less work than five quintics, and more accuracy.

    Accuracy in float32, over Gaussian matrices and spectra from 1 down to 1e-8: the nuclear norm
    is at most 0.2 % too small, the largest singular value at most 1 + 1e-3. On momenta of a small
    GPT, where most are below 1 % of the largest, the nuclear norm is 0.1 to 0.9 % too small.

    Examples:
        >>> import torch
        >>> from normball.polar import Nonic
        >>> u, nuclear = Nonic()(torch.randn(5, 3))
        >>> torch.allclose(u.T @ u, torch.eye(3), atol=0.01)
        True
    """

    steps: int = 4
    lower: float = 4e-3
    _odds: tuple[Odd, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        _check_steps(self.steps)
        _check_lower(self.lower, 4e-3)
        object.__setattr__(self, "_odds", compose((5,) * (self.steps - 1) + (3,), self.lower))


def _flops(rows: int, columns: int, odds: tuple[Odd, ...]) -> float:
    """Return the operations of a composition, symmetric products at half price.

    In units of `m^2` operations, the Gram matrix takes `n`; a polynomial of it takes `m`, or `2 m`
    for degree 9; and the last product takes `2 n`. Without the Gram form every step takes all of
    these; in the Gram form a step takes 5 `m` and its polynomial.
    """
    m, n = sorted((rows, columns))
    polynomials = sum(m * (len(odd) // 2) for odd in odds)
    if _in_gram_form(m, n, odds):
        return float(m * m * (3 * n + polynomials + 5 * m * (len(odds) - 1)))
    return float(m * m * (3 * n * len(odds) + polynomials))


@lru_cache
def polar_express_coefficients(steps: int, lower: float) -> tuple[Quintic, ...]:
    """Return the greedy, and therefore optimal, quintics for singular values in `[lower, 1]`.

    Minimises `max |1 - p_steps(... p_1(s))|` over `s` in `[lower, 1]` (Theorem 3.1 of arXiv
    2505.16932), then scales the last quintic to stay at or below 1.
    Beyond its interval a quintic grows fast: 0.1 % of room is left for rounding upwards.

    Examples:
        >>> from normball.polar import polar_express_coefficients
        >>> s = 0.01  # a singular value at the lower end
        >>> for a, b, c in polar_express_coefficients(6, 0.01):
        ...     s = a * s + b * s**3 + c * s**5
        >>> round(s, 3)
        1.0
    """
    return tuple((a, b, c) for a, b, c in compose((3,) * steps, lower))


@lru_cache
def compose(terms: tuple[int, ...], lower: float, margin: float = 0.001) -> tuple[Odd, ...]:
    """Return the same for polynomials with these numbers of terms, 3 or 5.

    `margin` is the room that is left for rounding upwards.
    """
    interval = (lower, 1.0)
    odds = []
    for count in terms:
        odd, error = _best_odd(count, interval[0], interval[1] * (1 + margin))
        odds.append(odd)
        interval = (1 - error, 1 + error)
    return (*odds[:-1], tuple(coefficient / interval[1] for coefficient in odds[-1]))


# The limits of the best polynomials as the interval shrinks to 1: the flattest polynomials there.
_FLATTEST = {3: (15 / 8, -5 / 4, 3 / 8), 5: (315 / 128, -105 / 32, 189 / 64, -45 / 32, 35 / 128)}


def _best_odd(count: int, low: float, high: float) -> tuple[Odd, float]:
    """Return the odd polynomial of `count` terms nearest to 1 on `[low, high]`, and its error.

    By Remez' exchange, in Python floats, because a compiled or captured step may call this.
    """
    if high - low < 10 ** (-18 / count) * high:
        # The equations below would lose all digits.
        mid = (low + high) / 2
        return tuple(c / mid ** (2 * i + 1) for i, c in enumerate(_FLATTEST[count])), 0.0
    points = [
        low + (high - low) * (1 - math.cos(math.pi * i / count)) / 2 for i in range(count + 1)
    ]
    error = 0.0
    while True:
        # The error alternates: p(low) = 1 - e, then 1 + e, 1 - e, ...
        *odd, new_error = _solve(
            [[s ** (2 * i + 1) for i in range(count)] + [(-1.0) ** j, 1.0]
             for j, s in enumerate(points)]
        )  # fmt: skip
        if abs(new_error - error) <= 1e-14:
            return tuple(odd), new_error
        error = new_error
        inside = []
        for left, here, right in zip(points, points[1:], points[2:], strict=False):
            inside.append(_extremum(odd, (left + here) / 2, (here + right) / 2))
        points = [low, *inside, high]


def _extremum(odd: list[float], low: float, high: float) -> float:
    """Return where the slope of the polynomial changes its sign in `[low, high]`, by halving."""

    def rises(s: float) -> bool:
        return sum([(2 * i + 1) * c * s ** (2 * i) for i, c in enumerate(odd)]) > 0

    start = rises(low)
    for _ in range(60):
        mid = (low + high) / 2
        low, high = (mid, high) if rises(mid) == start else (low, mid)
    return (low + high) / 2


def _solve(rows: list[list[float]]) -> list[float]:
    """Return the solution of a small linear system, of rows `[coefficients..., right-hand side]`.

    By elimination with pivots.
    """
    for i in range(len(rows)):
        pivot = max(range(i, len(rows)), key=lambda k: abs(rows[k][i]))
        rows[i], rows[pivot] = rows[pivot], rows[i]
        rows[i] = [x / rows[i][i] for x in rows[i]]
        for k, row in enumerate(rows):
            if k != i:
                rows[k] = [x - row[i] * y for x, y in zip(row, rows[i], strict=True)]
    return [row[-1] for row in rows]


# The steepest composition for which the Gram form is accurate enough in float32: the rounding of
# the Gram matrix, about 1e-7 of its largest eigenvalue, is magnified by the square of the slope.
_STEEPEST = 1400.0


def _in_gram_form(m: int, n: int, odds: tuple[Odd, ...]) -> bool:
    """Tell whether products of the smaller size are faster, and accurate enough.

    They are faster if the matrix is large enough for the number of calls not to matter, and wide
    enough for them to save work.
    """
    return m >= 64 and 2 * n >= 3 * m and _slope(odds) <= _STEEPEST


def _slope(odds: tuple[Odd, ...]) -> float:
    """Return the slope of the composition at zero."""
    return math.prod([odd[0] for odd in odds])


def _iterate(x: Tensor, odds: tuple[Odd, ...], *, tight: bool) -> tuple[Tensor, Tensor]:
    """Apply odd polynomials to the singular values of `x / length`; return `<x, result>` too.

    `length` is the Frobenius norm, or the Schatten 8-norm if `tight`.
    """
    small, square, length = _measure(gram(x), tight)
    y: Tensor
    if _in_gram_form(x.shape[-2], x.shape[-1], odds):
        y = _root(small, square, odds).div_(length) @ x
    else:
        y = x / length
        y = add_product(y, _polynomial(small, square, odds[0]), y, beta=odds[0][0])
        for odd in odds[1:]:
            y = add_product(y, _polynomial(gram(y), None, odd), y, beta=odd[0])
    return y, dot(x, y)


def of_gram_by_products(
    small: Tensor, odds: tuple[Odd, ...], *, tight: bool
) -> tuple[Tensor, Tensor]:
    """Do for one `x` what `_iterate` does, from its Gram matrix `small`, which is overwritten.

    Returns the matrix that takes `x` to the result, and the inner product of `x` with that.
    """
    small, square, length = _measure(small, tight)
    root = _root(small, square, odds)
    return root / length, length * dot(root, small)


def _measure(small: Tensor, tight: bool) -> tuple[Tensor, Tensor, Scalar]:
    """Return `G = y y^T` and `G^2`, of shape `(..., m, m)`, and `length` for `y = x / length`.

    `small` is `x x^T`, and is overwritten. The Schatten 8-norm is the root of `|| (x x^T)^2 ||_F`:
    like the Frobenius norm never below the largest singular value, but for a Gaussian matrix 1.4
    times that instead of `sqrt(m) / 2` times.
    """
    trace = per_matrix(small.diagonal(dim1=-2, dim2=-1).sum(-1))
    trace = where(trace == 0, 1.0, trace)
    length = sqrt(trace)
    small.div_(trace)
    square = symmetric(small, small)
    if tight:
        top = sqrt(per_matrix(torch.linalg.vector_norm(square, dim=(-2, -1))))
        top = where(top == 0, 1.0, top)
        small.div_(top)
        square.div_(top * top)
        length = length * sqrt(top)
    return small, square, length


def _polynomial(small: Tensor, square: Tensor | None, odd: Odd) -> Tensor:
    """Return `b small + c square + ...`, of shape `(..., m, m)`: all but `a I`.

    `square` is the square of `small`, which is computed here if it is None.
    """
    _, b, c, *more = odd
    if not more:
        if square is None:
            return symmetric_sum(small, small, small, beta=b, alpha=c)
        return torch.add(small, square, alpha=c / b).mul_(b)
    d, e = more
    square = symmetric(small, small) if square is None else square
    low = torch.add(small, square, alpha=c / b)
    return symmetric_sum(low, square, torch.add(small, square, alpha=e / d), beta=b, alpha=d)


def _root(small: Tensor, square: Tensor, odds: tuple[Odd, ...]) -> Tensor:
    """Return the matrix that takes `x` to its factor, of shape `(..., m, m)`.

    Every step computes `G = R^T small R` with the current root `R`, and replaces `R` by `R q(G)`.
    So the next step corrects rounding in `R`, and only the rounding of `small` is magnified. `R` is
    close to symmetric, but must not be symmetrised: it would then not fit the `G` it comes from.
    """
    root = add_to_diagonal(_polynomial(small, square, odds[0]), odds[0][0])
    for odd in odds[1:]:
        now = symmetric(root.mT, small @ root)
        root = add_product(root, root, _polynomial(now, None, odd), beta=odd[0])
    return root.mT


def _check_steps(steps: int) -> None:
    if not (isinstance(steps, int) and steps >= 1):
        raise ValueError(f"steps={steps} must be a whole number of at least 1")


def _check_lower(lower: float, default: float) -> None:
    if not 0 < lower < 1:
        raise ValueError(f"lower={lower} must lie in (0, 1); the default is {default:g}")
