"""Every statement tested: measured curves and their bounds, on problems with known constants."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate

import torch
from torch import Tensor

from normball import steps
from normball.norms import Euclidean, Norm, Product, Sign, Spectral
from normball.theory import bounds
from normball.theory.lanes import Lanes, Noise, Rule, random_starts
from normball.theory.minimize import minimize
from normball.theory.problems import Problem, cosh, joined, quadratic, shifted
from normball.theory.verdicts import (
    ROUNDING,
    Curve,
    Row,
    compare,
    deltas,
    descent,
    fit,
    lowest,
    mean,
    repeat,
    side_by_side,
)

__all__ = ["GEOMETRIES", "KINDS", "check"]

_SIGMA = 1.0
_SPECTRUM = (0.1, 0.5, 2.0, 10.0)
_VECTOR = torch.linspace(-1, 2, 5, dtype=torch.float64)
_MATRIX = torch.linspace(-1, 2, 12, dtype=torch.float64).view(4, 3)
_SIGN = Sign(normalized=False)


@dataclass(frozen=True)
class Geometry:
    """A norm with one problem of each kind in it.

    Attributes:
        norm: of both problems.
        steep: (L0, L1)-smooth, not L-smooth.
        smooth: L-smooth.
        zeta: `max ||x||* / ||x||_2`.
    """

    norm: Norm | Product
    steep: Problem
    smooth: Problem
    zeta: float


def _product() -> Geometry:
    radii = (1.0, 0.5)
    parts = [quadratic(_SPECTRUM, Spectral("plain"), 3), quadratic((*_SPECTRUM, 1.0), _SIGN)]
    norm = Product([p.norm for p in parts if isinstance(p.norm, Norm)], radii)
    # ||x||* = sum_l r_l ||x_l||_l* <= (sum_l r_l^2 zeta_l^2)^(1/2) ||x||_2.
    zeta = math.sqrt(radii[0] ** 2 * 3 + radii[1] ** 2 * 5)
    return Geometry(norm, cosh([_MATRIX, _VECTOR], norm), joined(parts, radii), zeta)


def _vector(norm: Norm, zeta: float) -> Geometry:
    return Geometry(norm, cosh(_VECTOR, norm), quadratic((*_SPECTRUM, 1.0), norm), zeta)


def _spectral() -> Geometry:
    norm = Spectral("plain")
    return Geometry(norm, cosh(_MATRIX, norm), quadratic(_SPECTRUM, norm, 3), math.sqrt(3))


GEOMETRIES: dict[str, Callable[[], Geometry]] = {
    "Euclidean": lambda: _vector(Euclidean(), 1.0),
    "Sign": lambda: _vector(_SIGN, math.sqrt(5)),
    "Spectral": _spectral,
    "Product": _product,
}

Outcome = tuple[list[Row], list[Curve]]


def check(kind: str, geometry: str, n: int, seeds: Sequence[int]) -> Outcome:
    """Run one kind of statements in one norm.

    Args:
        kind: a key of `KINDS`.
        geometry: a key of `GEOMETRIES`.
        n: steps, at least 100.
        seeds: one run for each; starts and noise differ.
    """
    return KINDS[kind](geometry, GEOMETRIES[geometry](), n, list(seeds))


def _relative(name: str, geometry: Geometry, n: int, seeds: list[int]) -> Outcome:
    """GGNC and uCG under (L0, L1)-smoothness."""
    problem, width = geometry.steep, len(seeds)
    L0, L1 = problem.L0, problem.L1
    gamma, rho = 1 / (2 * L0), L0 / L1
    short, long = 1 / (2 * L1), 1 / L1
    rules: list[Rule] = [
        lambda d, _: steps.ggnc(d, gamma * rho, rho),
        lambda d, _: steps.ucg(d, short),
        lambda d, _: steps.ucg(d, long),
        lambda d, _: steps.ucg(d, short / math.sqrt(n)),
    ]
    rule, (a, b, c, e) = side_by_side(rules, width)
    starts = repeat(random_starts(problem, seeds), len(rules))
    trace = Lanes(problem, starts).run(rule, n)
    delta = deltas(problem, trace)[:width]
    low = lowest(trace.measure)
    dual = trace.measure[:-1, a]
    promised = gamma / 2 * dual.clamp(max=rho) * dual
    constants = {"L0": L0, "L1": L1}
    pairs = [
        compare(
            "GGNC, Thm 4.3 corrected",
            name,
            low[:, a],
            lambda k, i: bounds.ggnc(k, delta[i], gamma=gamma, rho=rho, **constants),
        ),
        compare(
            "uCG, Thm 4.5 sharpened, longest step",
            name,
            low[:, b],
            lambda k, i: bounds.ucg_relative(k, delta[i], lr=short, **constants),
        ),
        compare(
            "uCG, step up to 1/L1",
            name,
            low[:, c],
            lambda k, i: bounds.ucg_relative_half(k, delta[i], lr=long, **constants),
        ),
        compare(
            "uCG, Thm 4.5 sharpened, step ~ n^-1/2",
            name,
            low[:, e],
            lambda k, i: bounds.ucg_relative(k, delta[i], lr=short / math.sqrt(n), **constants),
        ),
        compare(
            "uCG, Thm 4.5 as printed",
            name,
            low[:, b],
            lambda k, i: bounds.ucg_relative_printed(k, delta[i], lr=short, **constants),
        ),
    ]
    rows = [descent("GGNC descends, Thm 4.3", name, trace, a, promised)]
    return rows + [row for row, _ in pairs], [curve for _, curve in pairs[:2]]


def _smooth(name: str, geometry: Geometry, n: int, seeds: list[int]) -> Outcome:
    """GGNC and uCG under L-smoothness."""
    problem, width = geometry.smooth, len(seeds)
    L = problem.L0
    starts = random_starts(problem, seeds)
    first = float(Lanes(problem, starts).run(lambda d, _: 0 * d, 1).measure[0].min())
    rho, lr = first / 10, first / 10 / L
    rules: list[Rule] = [
        lambda d, _: steps.ggnc(d, rho / L, rho),
        lambda d, _: steps.ucg(d, lr),
    ]
    rule, (a, b) = side_by_side(rules, width)
    trace = Lanes(problem, repeat(starts, 2)).run(rule, n)
    delta = deltas(problem, trace)[:width]
    dual = trace.measure[:-1, a]
    promised = dual.clamp(max=rho) * dual / (2 * L)
    clipped, _ = compare(
        "GGNC under L-smoothness",
        name,
        lowest(trace.measure)[:, a],
        lambda k, i: bounds.ggnc(k, delta[i], gamma=1 / L, rho=rho, L0=L, L1=0.0),
    )
    fixed, curve = compare(
        "uCG under L-smoothness, Prop. 4.1",
        name,
        mean(trace.measure)[:, b],
        lambda k, i: bounds.ucg(k, delta[i], lr=lr, L=L),
    )
    falls = descent("GGNC descends under L-smoothness", name, trace, a, promised)
    return [falls, clipped, fixed], [curve]


def _ball(geometry: Geometry) -> Problem:
    """The L-smooth problem over a ball that its minimiser lies outside of."""
    return shifted(geometry.smooth, 1.0, beta=0.5)


def _constrained(name: str, geometry: Geometry, n: int, seeds: list[int]) -> Outcome:
    """S3CG, both variants, and the short step."""
    problem, width = _ball(geometry), len(seeds)
    L, beta = problem.L0, problem.beta or 1.0
    gamma, rho = 1 / L, L / 4
    rules: list[Rule] = [
        lambda g, w: steps.short_step_1(g, w, gamma * rho, rho),
        lambda g, _: steps.short_step_2(g, gamma * rho, rho, beta),
        lambda g, w: steps.short_step_1(g, w, 1.0, L),
    ]
    rule, slices = side_by_side(rules, width)
    starts = repeat(random_starts(problem, seeds), len(rules))
    trace = Lanes(problem, starts).run(rule, n)
    delta = deltas(problem, trace)[:width]
    rows, curves = [], []
    names = ("S3CG-1, Thm 4.7 corrected", "S3CG-2, Thm 4.7 corrected", "short step")
    for label, lanes, threshold in zip(names, slices, (rho, rho, L), strict=True):
        gap = trace.measure[:-1, lanes].clamp(min=0)
        options = {"gamma": gamma, "rho": threshold, "L": L, "beta": beta}
        # The step itself: gamma eta gap/2.
        promised = trace.step[:, lanes] * gap / 2
        floor = gamma / 2 * (gap / (4 * beta**2)).clamp(max=threshold) * gap
        rows.append(descent(f"{label}: descends", name, trace, lanes, promised.maximum(floor)))
        row, curve = compare(
            label,
            name,
            lowest(trace.measure)[:, lanes],
            lambda k, i, o=options: bounds.s3cg(k, delta[i], **o),  # type: ignore[misc]
        )
        rows.append(row)
        curves.append(curve)
    return rows, curves[:2]


def _horizons(n: int) -> list[int]:
    return [max(1, round(n * 10 ** (-i / 2))) for i in range(4, -1, -1)]


def _stochastic_ggnc(name: str, geometry: Geometry, n: int, seeds: list[int]) -> Outcome:
    """GGNC with momentum: the parameters of Thm 4.9 for several horizons, each with its bound."""
    problem, L = geometry.smooth, geometry.smooth.L0

    def choose(horizon: int) -> tuple[float, float, float]:
        return bounds.ggnc_stochastic_parameters(horizon, L0=L, L1=1.0)

    def rule(d: Tensor, gamma: float, rho: float) -> Tensor:
        return steps.ggnc(d, gamma * rho, rho)

    def error(moment: float, rho: float) -> float:
        return bounds.ggnc_error([moment], rho=rho, zeta=geometry.zeta)

    def bound(k: int, delta: float, gamma: float, rho: float, eps: float) -> float:
        return bounds.ggnc_stochastic(k, delta, gamma=gamma, rho=rho, L=L, error=eps)

    label = "stochastic GGNC, Thm 4.9, explicit"
    return _stochastic(label, name, problem, n, seeds, (choose, rule, error, bound))


def _stochastic_s3cg(name: str, geometry: Geometry, n: int, seeds: list[int]) -> Outcome:
    """S3CG variant 2 with momentum: the same for Thm 4.11."""
    problem = _ball(geometry)
    L, beta = problem.L0, problem.beta or 1.0

    def choose(horizon: int) -> tuple[float, float, float]:
        return bounds.s3cg_stochastic_parameters(horizon, L=L)

    def rule(g: Tensor, gamma: float, rho: float) -> Tensor:
        return steps.short_step_2(g, gamma * rho, rho, beta)

    def error(moment: float, rho: float) -> float:
        return bounds.s3cg_error([moment], rho=rho, zeta=geometry.zeta, beta=beta)

    def bound(k: int, delta: float, gamma: float, rho: float, eps: float) -> float:
        return bounds.s3cg_stochastic(k, delta, gamma=gamma, rho=rho, L=L, beta=beta, error=eps)

    label = "stochastic S3CG, Thm 4.11, explicit"
    return _stochastic(label, name, problem, n, seeds, (choose, rule, error, bound))


_Parts = tuple[
    Callable[[int], tuple[float, float, float]],
    Callable[[Tensor, float, float], Tensor],
    Callable[[float, float], float],
    Callable[[int, float, float, float, float], float],
]


def _stochastic(
    label: str, name: str, problem: Problem, n: int, seeds: list[int], parts: _Parts
) -> Outcome:
    choose, rule, error, bound = parts
    finals, curves, tightest = [], [], 0.0
    lanes = Lanes(problem, random_starts(problem, seeds))
    for horizon in _horizons(n):
        alpha, gamma, rho = choose(horizon)
        noise = Noise(_SIGMA, alpha, seed=seeds[0])
        trace = lanes.run(partial(_without_corner, rule, gamma, rho), horizon, noise, corner=False)
        delta = sum(deltas(problem, trace)) / len(seeds)
        terms = [error(moment, rho) for moment in trace.error.mean(1).tolist()]
        eps = [total / (k + 1) for k, total in enumerate(accumulate(terms))]
        means = mean(trace.measure)
        row, curve = compare(
            label,
            name,
            means.mean(1, keepdim=True),
            lambda k, _, d=delta, g=gamma, r=rho, e=eps: bound(k, d, g, r, e[k - 1]),  # type: ignore[misc]
            fitted=False,
        )
        tightest = max(tightest, row.tightest)
        curves.append(curve)
        finals.append(means[-1])
    slope = fit(torch.tensor(_horizons(n)), torch.stack(finals))
    return [Row(label, name, tightest <= 1 + ROUNDING, tightest, slope)], curves[-1:]


def _without_corner(
    rule: Callable[[Tensor, float, float], Tensor],
    gamma: float,
    rho: float,
    slope: Tensor,
    _size: Tensor,
) -> Tensor:
    return rule(slope, gamma, rho)


def _constant_free(name: str, geometry: Geometry, n: int, _seeds: list[int]) -> Outcome:
    """Backtracking and AdaGrad, which get no constants."""
    outcomes = []
    for kind in ("backtracking", "adagrad"):
        for problem in (geometry.steep, geometry.smooth, _ball(geometry)):
            if kind == "adagrad" and problem.L1:
                continue  # nothing is proved
            outcomes.append(_one_constant_free(kind, name, problem, min(n, 1000)))
    return outcomes, []


def _one_constant_free(kind: str, name: str, problem: Problem, n: int) -> Row:
    method = "ggnc" if problem.beta is None else "s3cg-2"
    run = minimize(
        problem.fun,
        problem.x0,
        method=method,
        norm=problem.norm,
        gamma=kind,
        beta=problem.beta,
        max_iter=n,
        tol=0,
    )
    low, measure, step = problem.infimum, run.history.measure, run.history.step
    if low is None:
        low = float((run.history.fun - measure).max())
    delta = float(run.history.fun[0]) - low
    L0, L1, beta = problem.L0, problem.L1, problem.beta
    first = float(measure[0])
    # The constant of the first accepted trial is at least that of the first trial.
    size = 1.0 if beta is None else 2 * beta
    constant = first / (float(step[0]) * size**2)
    rules: dict[tuple[str, bool], Callable[[int], float]] = {
        ("backtracking", True): lambda k: bounds.backtracking_ggnc(
            k, delta, L0=L0, L1=L1, first=constant
        ),
        ("backtracking", False): lambda k: bounds.backtracking_short_step(
            k, delta, L=L0, beta=beta or 1.0, first=constant
        ),
        ("adagrad", True): lambda k: bounds.adagrad(
            k, delta, L=L0, eta=float(step[0]), first=first
        ),
        ("adagrad", False): lambda k: bounds.adagrad_gap(
            k, delta, L=L0, beta=beta or 1.0, first=first
        ),
    }
    bound = rules[kind, beta is None]
    row, _ = compare(
        f"{method} by {kind}, {problem.name}",
        name,
        lowest(measure[:, None]),
        lambda k, _: _or_infinite(bound, k),
        fitted=False,
    )
    return row


def _or_infinite(bound: Callable[[int], float], n: int) -> float:
    """Return the bound, or infinity for an n that is too small for it."""
    try:
        return bound(n)
    except ValueError:
        return math.inf


KINDS: dict[str, Callable[[str, Geometry, int, list[int]], Outcome]] = {
    "relative": _relative,
    "smooth": _smooth,
    "constrained": _constrained,
    "stochastic ggnc": _stochastic_ggnc,
    "stochastic s3cg": _stochastic_s3cg,
    "constant-free": _constant_free,
}
