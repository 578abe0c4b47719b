"""The measured threshold, `rho="auto"`: steps between two lengths, whatever was measured."""

import math

from normball.theory.bounds.conditions import LIMIT, check, check_gap, require

# The limits of `normball.optim.threshold`; a test compares them with the optimizer's steps.
_LEVEL, _SHORT, _RISE = 50, 0.25, 5


def measured_lengths(k: int) -> tuple[float, float]:
    """Return the limits of step `k >= 1` of `rho="auto"` for `lr = 1`: shortest and longest."""
    check(k)
    longest = math.sqrt(min(1.0, _LEVEL / k))
    return _SHORT * min(1.0, k / _RISE) * longest, longest


def measured_threshold(
    n: int,
    delta: float,
    *,
    lr: float,
    alpha: float,
    L0: float,
    L1: float = 0.0,
    noise: float = 0.0,
    nesterov: bool = True,
    beta: float | None = None,
) -> float:
    r"""Bound `min_k ||g_k||*` of `ClippedScion(rho="auto")`, or `min_k gap_k` if `beta` is given.

    With `A = 2 K + 1/2`, `K` the mean age of the gradients in the estimate (weighted, see
    docs/theory.md; without `L1` it is `(1 - alpha)^2/alpha`, or `(1 - alpha)/alpha` without
    `nesterov`), and sums over `n` steps of the longest and the shortest allowed lengths:

        (D + A L0 sum longest^2 + 2 E sum longest) / ((1 - A L1 lr) sum shortest)

    where `E` is the error by noise. In the ball `4 beta^2 L0` stands for `L0`, and `2 beta E` for
    `E`. Without noise it is `O(log(n) / sqrt(n))`; with noise it falls to a multiple of `E`.

    Args:
        n: steps.
        delta: `f(x_1) - inf f`, over the ball if there is one.
        lr: length of the longest step, the same in all groups.
        alpha: weight of the new gradient, in (0, 1).
        L0: smoothness, in the norm of the optimizer.
        L1: smoothness relative to the dual norm; `L1 lr <= 1` and `A L1 lr < 1`. 0 in the ball.
        noise: `zeta sigma`: deviation of the unbiased noise in the Euclidean norm, times `max
            ||x||* / ||x||_2`. Then the bound is on `min_k E||g_k||*` or `min_k E gap_k`.
        nesterov: whether the estimate looks ahead.
        beta: radius of the ball, with `constrained=True`, in either variant.
    """
    check(n, lr=lr, alpha=alpha)
    check_gap(delta=delta, L0=L0, L1=L1, noise=noise)
    require(alpha < 1, "alpha < 1", alpha=alpha)
    if beta is not None:
        check(beta=beta)
        require(L1 == 0, "L1 = 0 in the ball", L1=L1)
        require(lr <= LIMIT, "lr <= 1 in the ball", lr=lr)
        L0, noise = 4 * beta**2 * L0, 2 * beta * noise
    require(L1 * lr <= LIMIT, "L1 lr <= 1", L1=L1, lr=lr)
    age = 2 * _age(alpha, L1 * lr, nesterov) + 0.5
    require(age * L1 * lr < 1, "A L1 lr < 1", A=age, L1=L1, lr=lr)
    squares, longest, shortest = _sums(n)
    error = noise * _deviation(alpha, nesterov) * (longest + _start(alpha, nesterov))
    total = delta / lr + age * L0 * lr * squares + 2 * error
    return total / ((1 - age * L1 * lr) * shortest)


def _age(alpha: float, curve: float, nesterov: bool) -> float:
    """Return the mean of `m exp(curve m)` over the ages `m` of the gradients in the estimate."""
    keep = 1 - alpha
    require(keep * math.exp(curve) < 1, "(1 - alpha) exp(L1 lr) < 1", alpha=alpha, curve=curve)
    age = alpha * keep * math.exp(curve) / (1 - keep * math.exp(curve)) ** 2
    return keep * age if nesterov else age


def _deviation(alpha: float, nesterov: bool) -> float:
    """Return the root of the sum of squares of all weights of an estimate without a start."""
    return math.sqrt(alpha / (2 - alpha) + (2 * alpha**2 * (1 - alpha) if nesterov else 0.0))


def _start(alpha: float, nesterov: bool) -> float:
    """Bound `sum_k (1/w_k - 1)`, where `w_k` is the sum of the weights after `k` gradients."""
    keep = 1 - alpha
    first = keep**2 if nesterov else keep
    return first / (alpha * (1 - first))


def _sums(n: int) -> tuple[float, float, float]:
    """Bound the sums over `n` steps, for `lr = 1`: longest squared, longest, shortest."""
    level = min(n, _LEVEL)
    squares = level + _LEVEL * math.log(n / level)
    longest = level + 2 * (math.sqrt(_LEVEL * n) - math.sqrt(_LEVEL * level))
    rising = n * (n + 1) / (2 * _RISE) if n < _RISE else level - (_RISE - 1) / 2
    falling = 2 * math.sqrt(_LEVEL) * max(0.0, math.sqrt(n + 1) - math.sqrt(_LEVEL + 1))
    return squares, longest, _SHORT * (rising + falling)
