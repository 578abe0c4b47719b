"""Every statement tested: measured curves and their bounds, on problems with known constants."""

import math
from collections.abc import Callable, Sequence

from normball import steps
from normball.theory import bounds
from normball.theory.constant_free import constant_free
from normball.theory.geometries import GEOMETRIES, Geometry
from normball.theory.lanes import Lanes, Rule, random_starts
from normball.theory.limited import limited_steps
from normball.theory.noisy import stochastic_ggnc, stochastic_s3cg
from normball.theory.verdicts import (
    Outcome,
    compare,
    deltas,
    descent,
    lowest,
    mean,
    repeat,
    side_by_side,
)

__all__ = ["GEOMETRIES", "KINDS", "check"]


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


def _constrained(name: str, geometry: Geometry, n: int, seeds: list[int]) -> Outcome:
    """S3CG, both variants, and the short step."""
    problem, width = geometry.ball(), len(seeds)
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


KINDS: dict[str, Callable[[str, Geometry, int, list[int]], Outcome]] = {
    "relative": _relative,
    "smooth": _smooth,
    "constrained": _constrained,
    "stochastic ggnc": stochastic_ggnc,
    "stochastic s3cg": stochastic_s3cg,
    "measured threshold": limited_steps,
    "constant-free": constant_free,
}
