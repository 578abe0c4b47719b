"""The statements with noise tested, with the measured error of the estimate put in."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

from normball import steps
from normball.theory import bounds
from normball.theory.geometries import Geometry
from normball.theory.lanes import Lanes, Noise, random_starts
from normball.theory.problems import Problem
from normball.theory.verdicts import ROUNDING, Outcome, Row, compare, deltas, fit, mean

_SIGMA = 1.0


@dataclass(frozen=True)
class _Statement:
    """A statement with noise.

    Attributes:
        label: for the table.
        choose: from the horizon to `alpha`, `gamma`, `rho`.
        rule: the step, from the slope, `||u||`, `gamma` and `rho`.
        error: the `eps` of one step, from its second moment and `rho`.
        bound: from `n`, delta, `gamma`, `rho` and the mean `eps`.
        corner: whether the rule needs `||u||`.
        nesterov: whether the estimate looks ahead.
    """

    label: str
    choose: Callable[[int], tuple[float, float, float]]
    rule: Callable[[Tensor, Tensor, float, float], Tensor]
    error: Callable[[float, float], float]
    bound: Callable[[int, float, float, float, float], float]
    corner: bool = False
    nesterov: bool = False


def stochastic_ggnc(name: str, geometry: Geometry, n: int, seeds: list[int]) -> Outcome:
    """GGNC with momentum: the parameters of Thm 4.9 for several horizons, each with its bound."""
    problem, L = geometry.smooth, geometry.smooth.L0
    statements = [
        _Statement(
            label,
            lambda horizon: bounds.ggnc_stochastic_parameters(horizon, L0=L, L1=1.0),
            lambda d, _, gamma, rho: steps.ggnc(d, gamma * rho, rho),
            lambda moment, rho: bounds.ggnc_error([moment], rho=rho, zeta=geometry.zeta),
            lambda k, delta, gamma, rho, eps: bounds.ggnc_stochastic(
                k, delta, gamma=gamma, rho=rho, L=L, error=eps
            ),
            nesterov=nesterov,
        )
        for label, nesterov in (
            ("stochastic GGNC, Thm 4.9, explicit", False),
            ("stochastic GGNC, looking ahead", True),
        )
    ]
    return _all(statements, name, problem, n, seeds)


def stochastic_s3cg(name: str, geometry: Geometry, n: int, seeds: list[int]) -> Outcome:
    """S3CG of both variants with momentum: the same for Thm 4.11."""
    problem = geometry.ball()
    L, beta = problem.L0, problem.beta or 1.0

    def first(g: Tensor, w: Tensor, gamma: float, rho: float) -> Tensor:
        return steps.short_step_1(g, w, gamma * rho, rho)

    def second(g: Tensor, _: Tensor, gamma: float, rho: float) -> Tensor:
        return steps.short_step_2(g, gamma * rho, rho, beta)

    statements = [
        _Statement(
            label,
            lambda horizon: bounds.s3cg_stochastic_parameters(horizon, L=L),
            rule,
            lambda moment, rho: bounds.s3cg_error([moment], rho=rho, zeta=geometry.zeta, beta=beta),
            lambda k, delta, gamma, rho, eps: bounds.s3cg_stochastic(
                k, delta, gamma=gamma, rho=rho, L=L, beta=beta, error=eps
            ),
            corner=rule is first,
            nesterov=nesterov,
        )
        for label, rule, nesterov in (
            ("stochastic S3CG-2, Thm 4.11, explicit", second, False),
            ("stochastic S3CG-1, Thm 4.11, explicit", first, False),
            ("stochastic S3CG-2, looking ahead", second, True),
        )
    ]
    return _all(statements, name, problem, n, seeds)


def _all(
    statements: list[_Statement], name: str, problem: Problem, n: int, seeds: list[int]
) -> Outcome:
    outcomes = [_measure(one, name, problem, n, seeds) for one in statements]
    return [row for rows, _ in outcomes for row in rows], outcomes[0][1]


def _measure(one: _Statement, name: str, problem: Problem, n: int, seeds: list[int]) -> Outcome:
    finals, curves, tightest = [], [], 0.0
    lanes = Lanes(problem, random_starts(problem, seeds))
    for horizon in _horizons(n):
        alpha, gamma, rho = one.choose(horizon)
        noise = Noise(_SIGMA, alpha, seeds[0], one.nesterov)
        trace = lanes.run(
            lambda slope, size, g=gamma, r=rho: one.rule(slope, size, g, r),  # type: ignore[misc]
            horizon,
            noise,
            corner=one.corner,
        )
        delta = sum(deltas(problem, trace)) / len(seeds)
        terms = [one.error(moment, rho) for moment in trace.error.mean(1).tolist()]
        eps = [total / (k + 1) for k, total in enumerate(accumulate(terms))]
        means = mean(trace.measure)
        row, curve = compare(
            one.label,
            name,
            means.mean(1, keepdim=True),
            lambda k, _, d=delta, g=gamma, r=rho, e=eps: one.bound(k, d, g, r, e[k - 1]),  # type: ignore[misc]
            fitted=False,
        )
        tightest = max(tightest, row.tightest)
        curves.append(curve)
        finals.append(means[-1])
    slope = fit(torch.tensor(_horizons(n)), torch.stack(finals))
    return [Row(one.label, name, tightest <= 1 + ROUNDING, tightest, slope)], curves[-1:]


def _horizons(n: int) -> list[int]:
    return [max(1, round(n * 10 ** (-i / 2))) for i in range(4, -1, -1)]
