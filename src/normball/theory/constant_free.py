"""The statements on step sizes without constants tested: backtracking and AdaGrad."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from normball.theory import bounds
from normball.theory.geometries import Geometry
from normball.theory.lanes import random_starts
from normball.theory.minimize import Result, minimize
from normball.theory.problems import Problem
from normball.theory.verdicts import Curve, Outcome, Row, compare, lowest

_MOST_STEPS = 1000
# Thresholds, in units of `L0/L1`.
_THRESHOLDS = (100.0, 1.0, 0.01)
_DRAWN = (
    "ggnc by backtracking, cosh",
    "ggnc by backtracking, cosh, rho = 1 L0/L1",
    "ggnc by backtracking, cosh, rho = 0.01 L0/L1",
)
_Bound = Callable[[int], float]
_Choose = Callable[[Problem, Result, float], _Bound]


def constant_free(name: str, geometry: Geometry, n: int, seeds: list[int]) -> Outcome:
    """Every method and option of `minimize` that needs no constants and has a bound."""
    steep, smooth, ball = geometry.steep, geometry.smooth, geometry.ball()
    n = min(n, _MOST_STEPS)
    unit = steep.L0 / steep.L1
    cases: list[tuple[str, Problem, dict[str, Any], _Choose]] = [
        ("", steep, {"gamma": "backtracking"}, _free),
        ("", smooth, {"gamma": "backtracking"}, _free),
        ("", smooth, {"gamma": "backtracking", "rho": smooth.L0 / 10}, _clipped),
        ("", smooth, {"gamma": "adagrad"}, _adagrad),
        ("", smooth, {"gamma": "adagrad", "rho": smooth.L0 / 10}, _adagrad),
        ("", ball, {"method": "s3cg-1", "gamma": "backtracking"}, _in_ball),
        ("", ball, {"method": "s3cg-2", "gamma": "backtracking"}, _in_ball),
        ("", ball, {"method": "s3cg-2", "gamma": "adagrad"}, _adagrad_in_ball),
    ]
    for factor in _THRESHOLDS:
        options = {"gamma": "backtracking", "rho": factor * unit}
        times = f", rho = {factor:g} L0/L1"
        cases.append((times, steep, options, _clipped))
        cases.append((f"{times}, bound without rho", steep, options, _free))
    pairs, runs = [], {}
    for suffix, problem, options, choose in cases:
        key = (problem.name, problem.beta, *options.items())
        if key not in runs:
            runs[key] = _run(problem, options, n, seeds)
        pairs.append(_verdict(suffix, name, problem, options, runs[key], choose))
    return [row for row, _ in pairs], [curve for row, curve in pairs if row.statement in _DRAWN]


def _run(problem: Problem, options: dict[str, Any], n: int, seeds: list[int]) -> list[Result]:
    single = isinstance(problem.x0, torch.Tensor)
    columns = [x.unbind() for x in random_starts(problem, seeds)]
    return [
        minimize(
            problem.fun,
            start[0] if single else start,
            norm=problem.norm,
            beta=problem.beta,
            max_iter=n,
            tol=0,
            **{"method": "ggnc"} | options,
        )
        for start in zip(*columns, strict=True)
    ]


def _verdict(
    suffix: str,
    name: str,
    problem: Problem,
    options: dict[str, Any],
    runs: list[Result],
    choose: _Choose,
) -> tuple[Row, Curve]:
    rho = options.get("rho", math.inf)
    # AdaGrad's theorem is on the clipped dual norm.
    cap = rho if options["gamma"] == "adagrad" else math.inf
    n = runs[0].nit
    measured = torch.stack([run.history.measure for run in runs], 1).clamp(max=cap)
    limits = [partial(_or_infinite, choose(problem, run, rho), n) for run in runs]
    if "rho" in options and not suffix:
        suffix = ", rho = L0/10"
    method, kind = options.get("method", "ggnc"), options["gamma"]
    label = f"{method} by {kind}, {problem.name}{suffix}"
    return compare(label, name, lowest(measured), lambda k, i: limits[i](k), fitted=False)


def _or_infinite(bound: _Bound, last: int, n: int) -> float:
    """Return the bound, or infinity for an `n` that is too small for it, but not for `last`."""
    bound(last)
    try:
        return bound(n)
    except ValueError:
        return math.inf


def _delta(problem: Problem, run: Result) -> float:
    low = problem.infimum
    if low is None:  # convex: f - gap is below the minimum at every point
        low = float((run.history.fun - run.history.measure).max())
    return float(run.history.fun[0]) - low


def _first(problem: Problem, run: Result, rho: float) -> float | None:
    """Return the first accepted constant, or None where it is so small that no step is lost.

    It stands for the first trial: the proofs start from it as well.
    """
    dual = float(run.history.measure[0])
    constant = min(rho, dual) / float(run.history.step[0])
    needed = min(1.0, rho / dual) * (problem.L0 + problem.L1 * dual)
    return None if constant <= 2 * needed else constant


def _free(problem: Problem, run: Result, rho: float) -> _Bound:
    return lambda n: bounds.backtracking_ggnc(
        n,
        _delta(problem, run),
        L0=problem.L0,
        L1=problem.L1,
        first=_first(problem, run, rho),
        rho=rho,
    )


def _clipped(problem: Problem, run: Result, rho: float) -> _Bound:
    return lambda n: bounds.backtracking_threshold(
        n,
        _delta(problem, run),
        rho=rho,
        L0=problem.L0,
        L1=problem.L1,
        first=_first(problem, run, rho),
    )


def _in_ball(problem: Problem, run: Result, _rho: float) -> _Bound:
    # The first trial is a curvature of the quadratic, so at most L.
    return lambda n: bounds.backtracking_short_step(
        n, _delta(problem, run), L=problem.L0, beta=problem.beta or 1.0
    )


def _adagrad(problem: Problem, run: Result, rho: float) -> _Bound:
    first, eta = min(rho, float(run.history.measure[0])), float(run.history.step[0])
    return lambda n: bounds.adagrad(n, _delta(problem, run), L=problem.L0, eta=eta, first=first)


def _adagrad_in_ball(problem: Problem, run: Result, _rho: float) -> _Bound:
    beta, first = problem.beta or 1.0, float(run.history.measure[0])
    return lambda n: bounds.adagrad_gap(
        n, _delta(problem, run), L=problem.L0, beta=beta, first=first
    )
