"""Statements of the paper that do not hold as printed, kept as counterexamples.

No other module uses them. docs/theory.md says where each proof has its error;
`normball.theory.bounds` has the statements that hold. The paper is arXiv 2506.01913.

Examples:
    >>> from normball.theory import printed
    >>> all(one.printed < one.measured <= one.ours for one in printed.counterexamples())
    True
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from normball.theory import bounds

__all__ = ["Counterexample", "counterexamples", "falling_slope", "ggnc", "ggnc_special", "s3cg"]


def ggnc(n: int, delta: float, *, gamma: float, rho: float) -> float:
    """Thm 4.3 as printed: `sqrt(D/(gamma n)) + 2 D/(gamma rho n)`; a factor `sqrt(2)` is lost."""
    return math.sqrt(delta / (gamma * n)) + 2 * delta / (gamma * rho * n)


def ggnc_special(n: int, delta: float, *, L0: float, L1: float) -> float:
    """Thm 4.3's special choice `gamma = 1/L0`, `rho = L0/L1`, which breaks its own condition."""
    return ggnc(n, delta, gamma=1 / L0, rho=L0 / L1)


def s3cg(n: int, delta: float, *, gamma: float, rho: float, beta: float) -> float:
    """Thm 4.7 as printed: `2 beta sqrt(D/(gamma n)) + 2 D/(gamma rho n)`; a 1/2 is dropped."""
    return 2 * beta * math.sqrt(delta / (gamma * n)) + 2 * delta / (gamma * rho * n)


def falling_slope(x: Tensor) -> Tensor:
    """A convex, (1, 1)-smooth function that falls too little for the special choice of Thm 4.3.

    In one dimension, with `t = -x`: slope 1 for `t < 0`, `2/(1 + t) - 1` for `0 <= t <= 1`, and 0
    beyond. For `0 <= s < t <= 1` the slopes differ by `2 (t - s)/((1 + s)(1 + t))`, which is at
    most `(1 + slope(t)) (t - s)`. The step of `gamma = rho = 1` from 0 goes to -1 and gains
    `2 log 2 - 1 = 0.386`; the printed descent promises 0.5.

    Args:
        x: 0-d.

    Returns:
        `f(x)`, 0-d, with `f(0) = 0`.
    """
    t = -x
    inside = t.clamp(0, 1)
    return -t.clamp(max=0) - (2 * torch.log1p(inside) - inside)


@dataclass(frozen=True)
class Counterexample:
    """One line on which a printed bound fails and ours holds.

    Attributes:
        statement: of the paper.
        problem: in words.
        measured: the quantity that the statement bounds.
        printed: its bound there.
        ours: the bound of `normball.theory.bounds`.
    """

    statement: str
    problem: str
    measured: float
    printed: float
    ours: float


def counterexamples() -> tuple[Counterexample, ...]:
    """Return one line for each bound that fails, `measured` in closed form after one step."""
    large = 1e6
    return (
        Counterexample(
            "Thm 4.3, the bound",
            "x²/2 from 1, n = 1, gamma = 1, rho = 1e6",
            1.0,
            ggnc(1, 0.5, gamma=1.0, rho=large),
            bounds.ggnc(1, 0.5, gamma=1.0, rho=large, L0=1.0, L1=0.0),
        ),
        Counterexample(
            "Thm 4.3, gamma = 1/L0 and rho = L0/L1",
            "x²/2 with L1 = 1 from 0.2, n = 1",
            0.2,
            ggnc_special(1, 0.02, L0=1.0, L1=1.0),
            bounds.ggnc(1, 0.02, gamma=0.5, rho=1.0, L0=1.0, L1=1.0),
        ),
        Counterexample(
            "Thm 4.7",
            "(x + 0.95)²/2 on [-1, 1] from -1, n = 1, gamma = rho = 1",
            0.1,
            s3cg(1, 0.00125, gamma=1.0, rho=1.0, beta=1.0),
            bounds.s3cg(1, 0.00125, gamma=1.0, rho=1.0, L=1.0, beta=1.0),
        ),
    )
