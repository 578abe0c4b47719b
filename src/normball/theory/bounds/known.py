"""Steps from known constants, with exact gradients."""

import math

from normball.theory.bounds.conditions import (
    LIMIT,
    check,
    check_gap,
    check_ggnc,
    check_s3cg,
    require,
)


def ggnc_descent(dual_norm: float, *, gamma: float, rho: float, L0: float, L1: float) -> float:
    """Return a GGNC step's decrease of `f`: `(gamma/2) min(1, rho/||g||*) ||g||*^2` (Thm 4.3)."""
    check_ggnc(gamma, rho, L0, L1)
    check_gap(dual_norm=dual_norm)
    return gamma / 2 * min(dual_norm, rho) * dual_norm


def ggnc(n: int, delta: float, *, gamma: float, rho: float, L0: float, L1: float) -> float:
    """Bound `min_k ||g_k||*` over `n` GGNC steps: `sqrt(2 D/(gamma n)) + 2 D/(gamma rho n)`.

    The paper prints `sqrt(D/(gamma n))` (Thm 4.3), see `printed.ggnc`. The bound also holds with
    the maximum of the two terms in place of their sum.
    """
    check_ggnc(gamma, rho, L0, L1)
    check(n)
    check_gap(delta=delta)
    return math.sqrt(2 * delta / (gamma * n)) + 2 * delta / (gamma * rho * n)


def ucg(n: int, delta: float, *, lr: float, L: float) -> float:
    """Bound `mean_k ||g_k||*` over `n` steps of length `lr`: `D/(lr n) + L lr/2` (Prop. 4.1)."""
    check(n, lr=lr)
    check_gap(delta=delta, L=L)
    return delta / (lr * n) + L * lr / 2


def ucg_relative(n: int, delta: float, *, lr: float, L0: float, L1: float) -> float:
    """Bound `min_k ||g_k||*` of uCG under (L0, L1): `4 D/(3 lr n) + (2/3) L0 lr`.

    For `lr <= 1/(2 L1)`; the factor 1/2 of the descent inequality is kept, so it is sharper than
    what Thm 4.5 prints.
    """
    check(n, lr=lr)
    check_gap(delta=delta, L0=L0, L1=L1)
    require(lr * L1 <= 0.5 * LIMIT, "gamma rho <= 1/(2 L1)", lr=lr, L1=L1)
    return 4 * delta / (3 * lr * n) + 2 / 3 * L0 * lr


def ucg_relative_half(n: int, delta: float, *, lr: float, L0: float, L1: float) -> float:
    """Bound `min_k ||g_k||*` of uCG for steps up to twice as long: `2 D/(lr n) + L0 lr`."""
    check(n, lr=lr)
    check_gap(delta=delta, L0=L0, L1=L1)
    require(lr * L1 <= LIMIT, "gamma rho <= 1/L1", lr=lr, L1=L1)
    return 2 * delta / (lr * n) + L0 * lr


def ucg_relative_printed(n: int, delta: float, *, lr: float, L0: float, L1: float) -> float:
    """Bound `min_k ||g_k||*` of uCG as Thm 4.5 prints it: `2 D/(lr n) + 2 L0 lr`. It holds."""
    check(n, lr=lr)
    check_gap(delta=delta, L0=L0, L1=L1)
    require(lr * L1 <= 0.5 * LIMIT, "gamma rho <= 1/(2 L1)", lr=lr, L1=L1)
    return 2 * delta / (lr * n) + 2 * L0 * lr


def s3cg_descent(gap: float, *, gamma: float, rho: float, L: float, beta: float) -> float:
    """Return the least decrease of `f` by an S3CG step of either variant.

    `(gamma/2) min(rho, gap/(4 beta^2)) gap`; the step itself gives `(gamma/2) eta gap`.
    """
    check_s3cg(gamma, rho, L, beta)
    check_gap(gap=gap)
    return gamma / 2 * min(rho, gap / (4 * beta**2)) * gap


def s3cg(n: int, delta: float, *, gamma: float, rho: float, L: float, beta: float) -> float:
    """Bound `min_k gap_k`: `2 sqrt(2) beta sqrt(D/(gamma n)) + 2 D/(gamma rho n)`.

    For both variants. The paper prints 2 instead of `2 sqrt(2)` (Thm 4.7), see `printed.s3cg`. With
    `gamma = 1/L`, `rho = L` it is the bound of the short step. The bound also holds with the
    maximum of the two terms in place of their sum.
    """
    check_s3cg(gamma, rho, L, beta)
    check(n)
    check_gap(delta=delta)
    return 2 * math.sqrt(2) * beta * math.sqrt(delta / (gamma * n)) + 2 * delta / (gamma * rho * n)
