"""Polar factors by odd polynomials: products of matrices and nothing else."""

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from normball.polar.base import Polar, dot

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

    def _wide(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return _iterate(x, (MUON,) * self.steps)


@dataclass(frozen=True)
class PolarExpress(Polar):
    """The composition of quintics that is optimal for singular values in `[lower, 1]`.

    Each step is the best odd quintic for the interval that the step before left behind (Amsel et
    al., "The Polar Express", arXiv 2505.16932). The last one is scaled so that no singular value of
    the factor exceeds 1, as the guarantees of the constrained methods ask. `lower` is
    relative to the Frobenius norm; smaller singular values are damped, not amplified.

    Accuracy at 6 steps and `lower=1e-3` in float32, over Gaussian matrices and spectra from 1 down
    to 1e-6: the nuclear norm is at most 0.3 % too small, the largest singular value at most
    1 + 1e-5.
    """

    steps: int = 6
    lower: float = 1e-3

    def __post_init__(self) -> None:
        _check_steps(self.steps)
        if not 0 < self.lower < 1:
            raise ValueError(f"lower={self.lower} must lie in (0, 1); the default is 1e-3")

    def _wide(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return _iterate(x, polar_express_coefficients(self.steps, self.lower))


# Beyond its interval a quintic grows fast: leave room for singular values rounded upwards.
_MARGIN = 0.001


@lru_cache
def polar_express_coefficients(steps: int, lower: float) -> tuple[Quintic, ...]:
    """Return the greedy, and therefore optimal, quintics for singular values in `[lower, 1]`.

    Minimises `max |1 - p_steps(... p_1(s))|` over `s` in `[lower, 1]` (Theorem 3.1 of arXiv
    2505.16932), then scales the last quintic to stay at or below 1.
    """
    interval = (lower, 1.0)
    quintics = []
    for _ in range(steps):
        quintic, error = _best_quintic(interval[0], interval[1] * (1 + _MARGIN))
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
        points = torch.tensor([low, *inside, high], dtype=torch.float64)
        signs = torch.tensor([1.0, -1.0, 1.0, -1.0], dtype=torch.float64)
        system = torch.stack([points, points**3, points**5, signs], dim=1)
        # The error alternates: p(low) = 1 - e, then 1 + e, 1 - e, 1 + e.
        solution = torch.linalg.solve(system, torch.ones(4, dtype=torch.float64))
        a, b, c, new_error = solution.tolist()
        # Where p' = a + 3b s^2 + 5c s^4 vanishes.
        spread = math.sqrt(9 * b * b - 20 * a * c)
        inside = (
            math.sqrt((-3 * b - spread) / (10 * c)),
            math.sqrt((-3 * b + spread) / (10 * c)),
        )
        if abs(new_error - error) <= 1e-14:
            return (a, b, c), new_error
        error = new_error


def _iterate(x: Tensor, quintics: tuple[Quintic, ...]) -> tuple[Tensor, Tensor]:
    length = torch.linalg.vector_norm(x, dim=(-2, -1), keepdim=True)
    y = x / torch.where(length == 0, 1, length)
    for a, b, c in quintics:
        gram = y @ y.mT
        y = _madd(y, _madd(gram, gram, gram, b, c), y, a, 1.0)
    return y, dot(x, y)


def _madd(start: Tensor, left: Tensor, right: Tensor, beta: float, alpha: float) -> Tensor:
    """Return `beta * start + alpha * left @ right` in one call, for a matrix or a batch."""
    if start.ndim == 2:
        return torch.addmm(start, left, right, beta=beta, alpha=alpha)
    fused = torch.baddbmm(
        start.flatten(0, -3), left.flatten(0, -3), right.flatten(0, -3), beta=beta, alpha=alpha
    )
    return fused.view(start.shape)


def _check_steps(steps: int) -> None:
    if not (isinstance(steps, int) and steps >= 1):
        raise ValueError(f"steps={steps} must be a whole number of at least 1")
