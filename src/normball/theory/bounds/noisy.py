"""Gradients with noise, the error of an estimate, and the average."""

import math
from collections.abc import Iterable

from normball.theory.bounds.conditions import LIMIT, check, check_gap, check_s3cg, require


def ggnc_error(second_moments: Iterable[float], *, rho: float, zeta: float) -> float:
    """Return `eps = mean_k (2 rho zeta sqrt(m_k) + zeta^2 m_k / 2)`.

    Args:
        second_moments: `m_k = E||d_k - g(x_k)||_2^2`, one per step.
        rho: the threshold.
        zeta: `max ||x||* / ||x||_2`, needed because the error is measured in the Euclidean norm.
    """
    check(rho=rho, zeta=zeta)
    return _mean_error(second_moments, 2 * rho, zeta)


def _mean_error(second_moments: Iterable[float], weight: float, zeta: float) -> float:
    terms = []
    for m in second_moments:
        check_gap(second_moments=m)
        terms.append(weight * zeta * math.sqrt(m) + zeta**2 * m / 2)
    require(len(terms) >= 1, "one second moment or more", second_moments=len(terms))
    return math.fsum(terms) / len(terms)


def ggnc_stochastic(
    n: int, delta: float, *, gamma: float, rho: float, L: float, error: float
) -> float:
    """Bound `mean_k E||g_k||*` of GGNC whose estimates are off by `error`, from `ggnc_error`.

    `sqrt(4 D/(gamma n) + 4 eps) + 4 D/(gamma rho n) + 4 eps/rho`, for `gamma <= 1/L`: the explicit
    form of Thm 4.9.
    """
    check(n, gamma=gamma, rho=rho)
    check_gap(delta=delta, L=L, error=error)
    require(gamma * L <= LIMIT, "gamma <= 1/L", gamma=gamma, L=L)
    mean = 4 * delta / (gamma * n) + 4 * error
    return math.sqrt(mean) + mean / rho


def ggnc_stochastic_parameters(n: int, *, L0: float, L1: float) -> tuple[float, float, float]:
    """Return `alpha = n^-1/2`, `gamma = 1/(sqrt(n) L0)`, `rho = L0/(2 n^(1/4) L1)` (Thm 4.9)."""
    check(n, L0=L0, L1=L1)
    return n**-0.5, 1 / (math.sqrt(n) * L0), L0 / (2 * n**0.25 * L1)


def s3cg_error(second_moments: Iterable[float], *, rho: float, zeta: float, beta: float) -> float:
    """Return `eps = mean_k (3 beta rho zeta sqrt(m_k) + zeta^2 m_k / 2)`; see `ggnc_error`."""
    check(rho=rho, zeta=zeta, beta=beta)
    return _mean_error(second_moments, 3 * beta * rho, zeta)


def s3cg_stochastic(
    n: int, delta: float, *, gamma: float, rho: float, L: float, beta: float, error: float
) -> float:
    """Bound `mean_k E gap_k` of S3CG whose estimates are off by `error`, from `s3cg_error`.

    `2 beta sqrt(4 D/(gamma n) + 4 eps) + (4 D/(gamma n) + 4 eps)/rho`: the explicit form of Thm
    4.11 and B.5, which print no `beta`.
    """
    check_s3cg(gamma, rho, L, beta)
    check(n)
    check_gap(delta=delta, error=error)
    mean = 4 * delta / (gamma * n) + 4 * error
    return 2 * beta * math.sqrt(mean) + mean / rho


def s3cg_stochastic_parameters(n: int, *, L: float) -> tuple[float, float, float]:
    """Return `alpha = n^-1/2`, `gamma = 1/(L sqrt(n))`, `rho = n^-1/4` (Thm 4.11)."""
    check(n, L=L)
    return n**-0.5, 1 / (L * math.sqrt(n)), n**-0.25


def momentum_error(
    k: int,
    *,
    alpha: float,
    sigma: float,
    drift: float,
    first_gradient: float,
    nesterov: bool = False,
) -> float:
    """Bound `sqrt(E||d_k - g(x_k)||_2^2)` after `k` gradients, from `d_0 = 0`.

    `(1 - alpha)^k ||g(x_1)||_2 + (1 - alpha)/alpha drift + sigma sqrt(alpha/(2 - alpha))`. The
    first term is missing in the paper's lemmas. For the estimate that looks ahead,
    `(1 - alpha) d_k + alpha` times the last gradient, the first two terms shrink by `1 - alpha`,
    and the third becomes `sigma sqrt(alpha/(2 - alpha) + 2 alpha^2 (1 - alpha))`.

    Args:
        k: number of gradients seen, at least 1.
        alpha: weight of the new gradient, in (0, 1].
        sigma: standard deviation of the unbiased noise, in the Euclidean norm.
        drift: largest change of the true gradient in one step, in the Euclidean norm.
        first_gradient: `||g(x_1)||_2`.
        nesterov: bound the error of the estimate that looks ahead.
    """
    check(k, alpha=alpha)
    check_gap(sigma=sigma, drift=drift, first_gradient=first_gradient)
    require(alpha <= 1, "alpha <= 1", alpha=alpha)
    memory = (1 - alpha) ** k * first_gradient + (1 - alpha) / alpha * drift
    variance = alpha / (2 - alpha)
    if nesterov:
        memory *= 1 - alpha
        variance += 2 * alpha**2 * (1 - alpha)
    return memory + sigma * math.sqrt(variance)


def average_gap(n: int, total: float, *, average: float) -> float:
    """Bound `f(m_n) - inf f` of the averaged weights for a convex `f`: `min(1, 1/(c n)) total`.

    Args:
        n: number of points averaged, at least 1.
        total: the sum of `f(x_j) - inf f` over them, or of anything that is at least as large, such
            as Wolfe gaps.
        average: `c`, in (0, 1].
    """
    check(n, average=average)
    check_gap(total=total)
    require(average <= 1, "average <= 1", average=average)
    return min(1.0, 1 / (average * n)) * total
