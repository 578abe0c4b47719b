"""Step sizes that need no constants, compared by evaluations with the best pair of a grid."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from normball import steps
from normball.norms import Euclidean, Sign, Spectral
from normball.theory.lanes import Lanes
from normball.theory.minimize import Result, minimize
from normball.theory.problems import (
    Problem,
    breast_cancer,
    cosh,
    fourth_power,
    low_rank,
    phase_retrieval,
    quadratic,
    schatten_power,
    shifted,
    sparse,
)
from normball.theory.space import Space

__all__ = [
    "Contest", "ball_problems", "compete", "compete_in_ball", "contest_problems", "contest_table",
]  # fmt: skip

_GAMMAS = tuple(4.0**i for i in range(-8, 6))
_RHOS = (*(10.0**i for i in range(-2, 4)), 1e12)
# Longest shares of the way, `gamma rho`, in a ball.
_SHARES = (1.0, 0.5, 0.125)


@dataclass(frozen=True)
class Contest:
    """Evaluations until the dual norm, or in a ball the gap, has fallen by the factor given.

    Attributes:
        problem: its name and norm, and the method in a ball.
        fixed: with the best pair of the grid, one evaluation a step.
        gamma: of that pair.
        rho: of that pair.
        backtracking: by backtracking; infinite where the limit was reached.
        adagrad: by AdaGrad; likewise, and NaN where the method has none.
    """

    problem: str
    fixed: float
    gamma: float
    rho: float
    backtracking: float
    adagrad: float


def contest_problems() -> list[Problem]:
    """Return the unconstrained problems of this package, in three norms."""
    sign, spectral = Sign(normalized=False), Spectral("plain")
    spectrum = torch.logspace(-1, 1, 10).tolist()
    a = torch.linspace(-1, 2, 12, dtype=torch.float64)
    return [
        quadratic(spectrum, Euclidean()),
        quadratic(spectrum, sign),
        quadratic(spectrum[::3], spectral, 3),
        cosh(a, Euclidean()),
        cosh(a, sign),
        cosh(a.view(4, 3), spectral),
        fourth_power(10, Euclidean()),
        fourth_power(10, sign),
        schatten_power(4, 3),
        phase_retrieval(5, Euclidean()),
        phase_retrieval(5, sign),
        breast_cancer(Euclidean()),
        breast_cancer(sign),
    ]


def compete(problem: Problem, factor: float = 1e-3, max_iter: int = 1500) -> Contest:
    """Run the grid, backtracking and AdaGrad on one problem.

    The grid: `gamma` from 4^-8 to 4^5, in units of `1/L0`, and `rho` from 1/100 to 1000 times
    `L0/L1` (`L0` where `L1 = 0`), and without a threshold.

    Args:
        problem: on one tensor, without a ball.
        factor: by which the dual norm must fall.
        max_iter: steps after which a run counts as failed.
    """
    space = Space(problem.norm, problem.x0)
    unit = problem.L0 / (problem.L1 or 1.0)
    pairs = [(g / problem.L0, r * unit) for g in _GAMMAS for r in _RHOS]
    gamma, rho = torch.tensor(pairs, dtype=torch.float64).unbind(1)

    def rule(d: Tensor, _: Tensor) -> Tensor:
        # The rule is homogeneous: gamma min(rho, d) = gamma rho min(1, d/rho).
        return gamma * rho * steps.ggnc(d / rho, 1.0, 1.0)

    starts = [torch.stack([x] * len(pairs)) for x in space.unpack(problem.x0)]
    measure = Lanes(problem, starts).run(rule, max_iter).measure
    tol = factor * float(measure[0, 0])
    reached = measure <= tol
    first = torch.where(reached.any(0), reached.to(torch.int8).argmax(0), max_iter + 1)
    winner = int(first.argmin())
    # Evaluations are points: one more than steps.
    fixed = float(first[winner]) + 1 if bool(reached[:, winner].any()) else math.inf
    counts = []
    for search in ("backtracking", "adagrad"):
        run = minimize(
            problem.fun,
            problem.x0,
            method="ggnc",
            norm=problem.norm,
            gamma=search,
            tol=tol,
            max_iter=max_iter,
        )
        counts.append(float(run.nfev) if run.success else math.inf)
    return Contest(f"{problem.name}, {problem.norm}", fixed, *pairs[winner], *counts)


def ball_problems() -> list[Problem]:
    """Return the regressions over their balls, and quadratics over a ball and a box."""
    spectrum = torch.logspace(-1, 1, 10).tolist()
    sign = Sign(normalized=False)
    return [
        sparse(),
        low_rank(),
        shifted(quadratic(spectrum, Euclidean()), 1.0, beta=1.0),
        shifted(quadratic(spectrum, sign), 1.0, beta=0.5),
    ]


def compete_in_ball(
    problem: Problem, method: str, factor: float = 1e-2, max_iter: int = 1000
) -> Contest:
    """Run the grid, backtracking and AdaGrad of one of the two S3CG methods on one problem.

    The grid: `gamma` from 4^-8 to 4^5, in units of `1/L0`, and `gamma rho` 1, 1/2 and 1/8.

    Args:
        problem: with a ball.
        method: `"s3cg-1"` or `"s3cg-2"`.
        factor: by which the gap must fall.
        max_iter: steps after which a run counts as failed.
    """

    def run(limit: int, tol: float, **rule: Any) -> Result:
        return minimize(
            problem.fun, problem.x0, method=method, norm=problem.norm, beta=problem.beta,
            max_iter=limit, tol=tol, **rule,
        )  # fmt: skip

    tol = factor * float(run(1, 0, gamma=1e-6, rho=1.0).history.measure[0])
    best, pair = math.inf, (math.nan, math.nan)
    for gamma in (g / problem.L0 for g in _GAMMAS):
        for share in _SHARES:
            limit = int(min(max_iter, best - 2))
            found = run(limit, tol, gamma=gamma, rho=share / gamma) if limit > 0 else None
            if found is not None and found.success:
                best, pair = float(found.nfev), (gamma, share / gamma)
    counts = []
    for search in ("backtracking", "adagrad") if method == "s3cg-2" else ("backtracking",):
        found = run(max_iter, tol, gamma=search)
        counts.append(float(found.nfev) if found.success else math.inf)
    name = f"{problem.name}, {problem.norm}, {method}"
    return Contest(name, best, *pair, counts[0], counts[1] if len(counts) > 1 else math.nan)


def contest_table(contests: Sequence[Contest]) -> str:
    """Return the contests as a Markdown table."""
    lines = [
        "| problem, norm | best fixed (gamma, rho) | backtracking | AdaGrad | backtracking/best |",
        "|---|---|---|---|---|",
    ]
    for one in contests:
        lines.append(
            f"| {one.problem} | {one.fixed:g} ({one.gamma:.2g}, {one.rho:.2g}) | "
            f"{one.backtracking:g} | {_count(one.adagrad)} | {one.backtracking / one.fixed:.2f} |"
        )
    return "\n".join(lines) + "\n"


def _count(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:g}"
