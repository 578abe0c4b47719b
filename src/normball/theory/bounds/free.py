"""Step sizes that need no constants."""

import math

from normball.theory.bounds.conditions import check, check_gap, require
from normball.theory.bounds.known import ggnc


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
    check(n, L0=L0)
    check_gap(delta=delta, L1=L1)
    require(rho > 0, "rho > 0", rho=rho)
    floor, name = L0, "L0"
    if first is not None and rho < math.inf:
        floor, name = min(L0, rho * L1), "min(L0, rho L1)"
        require(floor > 0, "rho L1 > 0", rho=rho, L1=L1)
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
    check(n, rho=rho)
    check_gap(delta=delta, L0=L0, L1=L1)
    largest = L0 + rho * L1
    require(largest > 0, "L0 + rho L1 > 0", L0=L0, rho=rho, L1=L1)
    steps = _after_start(n, first, largest, "(L0 + rho L1)", L0=L0, L1=L1, rho=rho)
    return ggnc(steps, delta, gamma=1 / (2 * largest), rho=rho, L0=L0, L1=L1)


def backtracking_short_step(
    n: int, delta: float, *, L: float, beta: float, first: float | None = None
) -> float:
    """Bound `min_k gap_k` of the short step and S3CG by backtracking: `4 beta sqrt(L D/m) + 2 D/m`.

    `m = n - max(0, ceil(log2(first/(2 L))))`; `first` is the constant of the first trial. None
    stands for one of at most `2 L`, as every curvature is.
    """
    check(n, L=L, beta=beta)
    check_gap(delta=delta)
    steps = _after_start(n, first, L, "L", L=L)
    return 4 * beta * math.sqrt(L * delta / steps) + 2 * delta / steps


def _after_start(n: int, first: float | None, constant: float, name: str, **values: float) -> int:
    if first is None:
        return n
    check(first=first)
    wait = max(0, math.ceil(math.log2(first) - math.log2(constant) - 1))
    require(n > wait, f"n > log2(first/(2 {name}))", n=n, first=first, **values)
    return n - wait


def adagrad(n: int, delta: float, *, L: float, eta: float, first: float) -> float:
    """Bound `min_k ||g_k||*` of AdaGrad's steps in any norm under L-smoothness.

    `B/sqrt(n)`, `B = max(first, eta L) + 2 D/eta + eta L (1 + 2 log+(eta L/first))`, where `first`
    is `||g_1||*` and `eta` the length of the first step. With a threshold it bounds `min_k min(rho,
    ||g_k||*)`, and `first` is `min(rho, ||g_1||*)`.
    """
    check(n, L=L, eta=eta, first=first)
    check_gap(delta=delta)
    climb = eta * L * (1 + 2 * max(0.0, math.log(eta * L / first)))
    return (max(first, eta * L) + 2 * delta / eta + climb) / math.sqrt(n)


def adagrad_gap(n: int, delta: float, *, L: float, beta: float, first: float) -> float:
    """Bound `min_k gap_k` of AdaGrad's steps in the ball of radius `beta`.

    `B/sqrt(n)`, `B = max(first, C) + 2 D + C (1 + 2 log+(C/first))`, `C = 4 beta^2 L`, `first` the
    gap at the start.
    """
    check(n, L=L, beta=beta, first=first)
    return adagrad(n, delta, L=4 * beta**2 * L, eta=1.0, first=first)
