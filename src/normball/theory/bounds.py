"""The guarantees, one function per statement, with the constants that their proofs give.

`n` is the number of steps, `delta = f(x_1) - inf f` (over the ball for the constrained methods),
`L0`, `L1`, `L` the smoothness constants in the method's norm, all positive unless said otherwise.
Dual norms and Wolfe gaps are returned in the units of the problem. Each function raises
`ValueError` if its parameters violate a condition, and names that condition. The proofs are in
docs/theory.md. Statements of the paper that do not hold are in `normball.theory.printed`.

Examples:
    >>> from normball.theory import bounds
    >>> round(bounds.ggnc(100, 1.0, gamma=0.5, rho=1.0, L0=1.0, L1=1.0), 4)  # sqrt(0.04) + 0.04
    0.24
    >>> round(bounds.ggnc(400, 1.0, gamma=0.5, rho=1.0, L0=1.0, L1=1.0), 4)
    0.11
    >>> bounds.ggnc(100, 1.0, gamma=1.0, rho=1.0, L0=1.0, L1=1.0)
    Traceback (most recent call last):
    ValueError: the condition gamma <= 1/(L0 + rho L1) does not hold for gamma=1, rho=1, L0=1, L1=1
"""

import math
from collections.abc import Iterable

__all__ = [
    "adagrad",
    "adagrad_gap",
    "average_gap",
    "backtracking_ggnc",
    "backtracking_short_step",
    "backtracking_threshold",
    "ggnc",
    "ggnc_descent",
    "ggnc_error",
    "ggnc_stochastic",
    "ggnc_stochastic_parameters",
    "momentum_error",
    "s3cg",
    "s3cg_descent",
    "s3cg_error",
    "s3cg_stochastic",
    "s3cg_stochastic_parameters",
    "ucg",
    "ucg_relative",
    "ucg_relative_half",
    "ucg_relative_printed",
]

# A natural choice, such as gamma = 1/(L0 + rho L1), must not be refused for its rounding error.
_LIMIT = 1 + 1e-12


def _require(holds: bool, condition: str, **values: float) -> None:
    if not holds:
        given = ", ".join(f"{name}={value:g}" for name, value in values.items())
        raise ValueError(f"the condition {condition} does not hold for {given}")


def _check(n: int = 1, **positive: float) -> None:
    _require(n >= 1, "n >= 1", n=n)
    for name, value in positive.items():
        _require(0 < value < math.inf, f"{name} > 0", **{name: value})


def _check_gap(**values: float) -> None:
    for name, value in values.items():
        _require(0 <= value < math.inf, f"{name} >= 0", **{name: value})


def _check_ggnc(gamma: float, rho: float, L0: float, L1: float) -> None:
    _check(gamma=gamma, rho=rho)
    _check_gap(L0=L0, L1=L1)
    _require(
        gamma * (L0 + rho * L1) <= _LIMIT,
        "gamma <= 1/(L0 + rho L1)",
        gamma=gamma,
        rho=rho,
        L0=L0,
        L1=L1,
    )


def ggnc_descent(dual_norm: float, *, gamma: float, rho: float, L0: float, L1: float) -> float:
    """Return a GGNC step's decrease of `f`: `(gamma/2) min(1, rho/||g||*) ||g||*^2` (Thm 4.3)."""
    _check_ggnc(gamma, rho, L0, L1)
    _check_gap(dual_norm=dual_norm)
    return gamma / 2 * min(dual_norm, rho) * dual_norm


def ggnc(n: int, delta: float, *, gamma: float, rho: float, L0: float, L1: float) -> float:
    """Bound `min_k ||g_k||*` over `n` GGNC steps: `sqrt(2 D/(gamma n)) + 2 D/(gamma rho n)`.

    The paper prints `sqrt(D/(gamma n))` (Thm 4.3), see `printed.ggnc`. The bound also holds with
    the maximum of the two terms in place of their sum.
    """
    _check_ggnc(gamma, rho, L0, L1)
    _check(n)
    _check_gap(delta=delta)
    return math.sqrt(2 * delta / (gamma * n)) + 2 * delta / (gamma * rho * n)


def ucg(n: int, delta: float, *, lr: float, L: float) -> float:
    """Bound `mean_k ||g_k||*` over `n` steps of length `lr`: `D/(lr n) + L lr/2` (Prop. 4.1)."""
    _check(n, lr=lr)
    _check_gap(delta=delta, L=L)
    return delta / (lr * n) + L * lr / 2


def ucg_relative(n: int, delta: float, *, lr: float, L0: float, L1: float) -> float:
    """Bound `min_k ||g_k||*` of uCG under (L0, L1): `4 D/(3 lr n) + (2/3) L0 lr`.

    For `lr <= 1/(2 L1)`; the factor 1/2 of the descent inequality is kept, so it is sharper than
    what Thm 4.5 prints.
    """
    _check(n, lr=lr)
    _check_gap(delta=delta, L0=L0, L1=L1)
    _require(lr * L1 <= 0.5 * _LIMIT, "gamma rho <= 1/(2 L1)", lr=lr, L1=L1)
    return 4 * delta / (3 * lr * n) + 2 / 3 * L0 * lr


def ucg_relative_half(n: int, delta: float, *, lr: float, L0: float, L1: float) -> float:
    """Bound `min_k ||g_k||*` of uCG for steps up to twice as long: `2 D/(lr n) + L0 lr`."""
    _check(n, lr=lr)
    _check_gap(delta=delta, L0=L0, L1=L1)
    _require(lr * L1 <= _LIMIT, "gamma rho <= 1/L1", lr=lr, L1=L1)
    return 2 * delta / (lr * n) + L0 * lr


def ucg_relative_printed(n: int, delta: float, *, lr: float, L0: float, L1: float) -> float:
    """Bound `min_k ||g_k||*` of uCG as Thm 4.5 prints it: `2 D/(lr n) + 2 L0 lr`. It holds."""
    _check(n, lr=lr)
    _check_gap(delta=delta, L0=L0, L1=L1)
    _require(lr * L1 <= 0.5 * _LIMIT, "gamma rho <= 1/(2 L1)", lr=lr, L1=L1)
    return 2 * delta / (lr * n) + 2 * L0 * lr


def _check_s3cg(gamma: float, rho: float, L: float, beta: float) -> None:
    _check(gamma=gamma, rho=rho, beta=beta)
    _check_gap(L=L)
    _require(gamma * L <= _LIMIT, "gamma <= 1/L", gamma=gamma, L=L)
    _require(gamma * rho <= _LIMIT, "gamma rho <= 1", gamma=gamma, rho=rho)


def s3cg_descent(gap: float, *, gamma: float, rho: float, L: float, beta: float) -> float:
    """Return the least decrease of `f` by an S3CG step of either variant.

    `(gamma/2) min(rho, gap/(4 beta^2)) gap`; the step itself gives `(gamma/2) eta gap`.
    """
    _check_s3cg(gamma, rho, L, beta)
    _check_gap(gap=gap)
    return gamma / 2 * min(rho, gap / (4 * beta**2)) * gap


def s3cg(n: int, delta: float, *, gamma: float, rho: float, L: float, beta: float) -> float:
    """Bound `min_k gap_k`: `2 sqrt(2) beta sqrt(D/(gamma n)) + 2 D/(gamma rho n)`.

    For both variants. The paper prints 2 instead of `2 sqrt(2)` (Thm 4.7), see `printed.s3cg`. With
    `gamma = 1/L`, `rho = L` it is the bound of the short step. The bound also holds with the
    maximum of the two terms in place of their sum.
    """
    _check_s3cg(gamma, rho, L, beta)
    _check(n)
    _check_gap(delta=delta)
    return 2 * math.sqrt(2) * beta * math.sqrt(delta / (gamma * n)) + 2 * delta / (gamma * rho * n)


# -- stochastic ------------------------------------------------------------------------------------


def ggnc_error(second_moments: Iterable[float], *, rho: float, zeta: float) -> float:
    """Return `eps = mean_k (2 rho zeta sqrt(m_k) + zeta^2 m_k / 2)`.

    Args:
        second_moments: `m_k = E||d_k - g(x_k)||_2^2`, one per step.
        rho: the threshold.
        zeta: `max ||x||* / ||x||_2`, needed because the error is measured in the Euclidean norm.
    """
    _check(rho=rho, zeta=zeta)
    return _mean_error(second_moments, 2 * rho, zeta)


def _mean_error(second_moments: Iterable[float], weight: float, zeta: float) -> float:
    terms = []
    for m in second_moments:
        _check_gap(second_moments=m)
        terms.append(weight * zeta * math.sqrt(m) + zeta**2 * m / 2)
    _require(len(terms) >= 1, "one second moment or more", second_moments=len(terms))
    return math.fsum(terms) / len(terms)


def ggnc_stochastic(
    n: int, delta: float, *, gamma: float, rho: float, L: float, error: float
) -> float:
    """Bound `mean_k E||g_k||*` of GGNC whose estimates are off by `error`, from `ggnc_error`.

    `sqrt(4 D/(gamma n) + 4 eps) + 4 D/(gamma rho n) + 4 eps/rho`, for `gamma <= 1/L`: the explicit
    form of Thm 4.9.
    """
    _check(n, gamma=gamma, rho=rho)
    _check_gap(delta=delta, L=L, error=error)
    _require(gamma * L <= _LIMIT, "gamma <= 1/L", gamma=gamma, L=L)
    mean = 4 * delta / (gamma * n) + 4 * error
    return math.sqrt(mean) + mean / rho


def ggnc_stochastic_parameters(n: int, *, L0: float, L1: float) -> tuple[float, float, float]:
    """Return `alpha = n^-1/2`, `gamma = 1/(sqrt(n) L0)`, `rho = L0/(2 n^(1/4) L1)` (Thm 4.9)."""
    _check(n, L0=L0, L1=L1)
    return n**-0.5, 1 / (math.sqrt(n) * L0), L0 / (2 * n**0.25 * L1)


def s3cg_error(second_moments: Iterable[float], *, rho: float, zeta: float, beta: float) -> float:
    """Return `eps = mean_k (3 beta rho zeta sqrt(m_k) + zeta^2 m_k / 2)`; see `ggnc_error`."""
    _check(rho=rho, zeta=zeta, beta=beta)
    return _mean_error(second_moments, 3 * beta * rho, zeta)


def s3cg_stochastic(
    n: int, delta: float, *, gamma: float, rho: float, L: float, beta: float, error: float
) -> float:
    """Bound `mean_k E gap_k` of S3CG whose estimates are off by `error`, from `s3cg_error`.

    `2 beta sqrt(4 D/(gamma n) + 4 eps) + (4 D/(gamma n) + 4 eps)/rho`: the explicit form of Thm
    4.11 and B.5, which print no `beta`.
    """
    _check_s3cg(gamma, rho, L, beta)
    _check(n)
    _check_gap(delta=delta, error=error)
    mean = 4 * delta / (gamma * n) + 4 * error
    return 2 * beta * math.sqrt(mean) + mean / rho


def s3cg_stochastic_parameters(n: int, *, L: float) -> tuple[float, float, float]:
    """Return `alpha = n^-1/2`, `gamma = 1/(L sqrt(n))`, `rho = n^-1/4` (Thm 4.11)."""
    _check(n, L=L)
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
    _check(k, alpha=alpha)
    _check_gap(sigma=sigma, drift=drift, first_gradient=first_gradient)
    _require(alpha <= 1, "alpha <= 1", alpha=alpha)
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
    _check(n, average=average)
    _check_gap(total=total)
    _require(average <= 1, "average <= 1", average=average)
    return min(1.0, 1 / (average * n)) * total


# -- step sizes that need no constants -------------------------------------------------------------


def backtracking_ggnc(
    n: int,
    delta: float,
    *,
    L0: float,
    L1: float,
    first: float | None = None,
    rho: float = math.inf,
) -> float:
    """Bound `min_k ||g_k||*` of GGNC by backtracking, with or without a threshold.

    `sqrt(4 L0 D/m) + 4 L1 D/m` with `m = n - max(0, ceil(log2(first/(2 min(L0, rho L1)))))`: the
    bound with the best constants, with `m` in place of `n`. The threshold changes only `m`. If
    `first` is at most `2 min(1, rho/||g_1||*) (L0 + L1 ||g_1||*)`, `m = n`.

    Args:
        n: steps.
        delta: `f(x_1) - inf f`.
        L0: positive; a function with `L0 = 0` has every positive `L0` too.
        L1: not negative; positive if both `first` and a threshold are given.
        first: the constant that the first iteration tries; None where `m = n`, which is the case
            for a curvature measured over at most `1/L1`, as `minimize` does it.
        rho: the threshold; infinity for none.
    """
    _check(n, L0=L0)
    _check_gap(delta=delta, L1=L1)
    _require(rho > 0, "rho > 0", rho=rho)
    floor, name = L0, "L0"
    if first is not None and rho < math.inf:
        floor, name = min(L0, rho * L1), "min(L0, rho L1)"
        _require(floor > 0, "rho L1 > 0", rho=rho, L1=L1)
    steps = _after_start(n, first, floor, name, L0=L0, L1=L1, rho=rho)
    return math.sqrt(4 * L0 * delta / steps) + 4 * L1 * delta / steps


def backtracking_threshold(
    n: int, delta: float, *, rho: float, L0: float, L1: float, first: float | None = None
) -> float:
    """Bound `min_k ||g_k||*` of GGNC by backtracking with a threshold, also for `L0 = 0`.

    `ggnc` with `gamma = 1/(2 A)`, `A = L0 + rho L1`, and with `m = n - max(0, ceil(log2(first/(2
    A))))` in place of `n`. `first` is the constant of the first trial; None stands for one of at
    most `2 A`. After a large `first` this is sharper for small `n` than `backtracking_ggnc`.
    """
    _check(n, rho=rho)
    _check_gap(delta=delta, L0=L0, L1=L1)
    largest = L0 + rho * L1
    _require(largest > 0, "L0 + rho L1 > 0", L0=L0, rho=rho, L1=L1)
    steps = _after_start(n, first, largest, "(L0 + rho L1)", L0=L0, L1=L1, rho=rho)
    return ggnc(steps, delta, gamma=1 / (2 * largest), rho=rho, L0=L0, L1=L1)


def backtracking_short_step(
    n: int, delta: float, *, L: float, beta: float, first: float | None = None
) -> float:
    """Bound `min_k gap_k` of the short step and S3CG by backtracking: `4 beta sqrt(L D/m) + 2 D/m`.

    `m = n - max(0, ceil(log2(first/(2 L))))`; `first` is the constant of the first trial. None
    stands for one of at most `2 L`, as every curvature is.
    """
    _check(n, L=L, beta=beta)
    _check_gap(delta=delta)
    steps = _after_start(n, first, L, "L", L=L)
    return 4 * beta * math.sqrt(L * delta / steps) + 2 * delta / steps


def _after_start(n: int, first: float | None, constant: float, name: str, **values: float) -> int:
    if first is None:
        return n
    _check(first=first)
    wait = max(0, math.ceil(math.log2(first) - math.log2(constant) - 1))
    _require(n > wait, f"n > log2(first/(2 {name}))", n=n, first=first, **values)
    return n - wait


def adagrad(n: int, delta: float, *, L: float, eta: float, first: float) -> float:
    """Bound `min_k ||g_k||*` of AdaGrad's steps in any norm under L-smoothness.

    `B/sqrt(n)`, `B = max(first, eta L) + 2 D/eta + eta L (1 + 2 log+(eta L/first))`, where `first`
    is `||g_1||*` and `eta` the length of the first step. With a threshold it bounds `min_k min(rho,
    ||g_k||*)`, and `first` is `min(rho, ||g_1||*)`.
    """
    _check(n, L=L, eta=eta, first=first)
    _check_gap(delta=delta)
    climb = eta * L * (1 + 2 * max(0.0, math.log(eta * L / first)))
    return (max(first, eta * L) + 2 * delta / eta + climb) / math.sqrt(n)


def adagrad_gap(n: int, delta: float, *, L: float, beta: float, first: float) -> float:
    """Bound `min_k gap_k` of AdaGrad's steps in the ball of radius `beta`.

    `B/sqrt(n)`, `B = max(first, C) + 2 D + C (1 + 2 log+(C/first))`, `C = 4 beta^2 L`, `first` the
    gap at the start.
    """
    _check(n, L=L, beta=beta, first=first)
    return adagrad(n, delta, L=4 * beta**2 * L, eta=1.0, first=first)
