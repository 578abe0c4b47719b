"""The statement on `rho="auto"` tested: steps of any length between its two limits."""

from dataclasses import dataclass

import torch
from torch import Tensor

from normball.theory import bounds
from normball.theory.geometries import Geometry
from normball.theory.lanes import Lanes, Noise, Rule, random_starts
from normball.theory.problems import Problem
from normball.theory.verdicts import Curve, Outcome, Row, compare, deltas, lowest, repeat

_MOST_STEPS = 1000
_ALPHA, _SIGMA = 0.1, 1.0
# Where between the limits: the shortest steps, the longest, and lengths at random.
_CHOICES = 3


@dataclass(frozen=True)
class _Case:
    """A problem, the longest step, and the estimate."""

    label: str
    problem: Problem
    lr: float
    nesterov: bool = True
    sigma: float = 0.0


def limited_steps(name: str, geometry: Geometry, n: int, seeds: list[int]) -> Outcome:
    """Both estimates, both modes, and noise."""
    n = min(n, _MOST_STEPS)
    steep, smooth, ball = geometry.steep, geometry.smooth, geometry.ball()
    cases = [
        _Case("cosh", steep, 0.02 / steep.L1),
        _Case("cosh, plain momentum", steep, 0.02 / steep.L1, nesterov=False),
        _Case("quadratic", smooth, 0.1),
        _Case("quadratic with noise", smooth, 0.1, sigma=_SIGMA),
        _Case("in the ball", ball, 0.02),
        _Case("in the ball with noise", ball, 0.02, sigma=_SIGMA),
    ]
    pairs = [_verdict(case, name, geometry.zeta, n, seeds) for case in cases]
    return [row for row, _ in pairs], [pairs[0][1], pairs[3][1]]


def _verdict(case: _Case, name: str, zeta: float, n: int, seeds: list[int]) -> tuple[Row, Curve]:
    problem, width = case.problem, len(seeds)
    starts = repeat(random_starts(problem, seeds), _CHOICES)
    noise = Noise(case.sigma, _ALPHA, seeds[0], case.nesterov)
    trace = Lanes(problem, starts).run(_between(case.lr, width), n, noise, corner=False)
    delta = torch.tensor(deltas(problem, trace), dtype=torch.float64)
    low = lowest(trace.measure)
    if case.sigma:  # a statement on the expectation
        means = trace.measure.view(n + 1, _CHOICES, width).mean(2)
        low, delta = lowest(means), delta.view(_CHOICES, width).mean(1)
    return compare(
        f"measured threshold, {case.label}",
        name,
        low,
        lambda k, i: bounds.measured_threshold(
            k,
            float(delta[i]),
            lr=case.lr,
            alpha=_ALPHA,
            L0=problem.L0,
            L1=problem.L1,
            noise=zeta * case.sigma,
            nesterov=case.nesterov,
            beta=problem.beta,
        ),
        fitted=False,
    )


def _between(lr: float, width: int) -> Rule:
    """Return the rule for `_CHOICES` times `width` lanes; it counts its calls."""
    generator = torch.Generator().manual_seed(0)
    taken = 0

    def rule(slope: Tensor, _size: Tensor) -> Tensor:
        nonlocal taken
        taken += 1
        shortest, longest = bounds.measured_lengths(taken)
        drawn = torch.rand(width, generator=generator, dtype=slope.dtype)
        place = torch.cat([torch.zeros_like(drawn), torch.ones_like(drawn), drawn])
        return lr * (shortest + place * (longest - shortest))

    return rule
