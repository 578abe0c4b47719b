"""The difference between the three methods: how each behaves as its step grows."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from normball import steps
from normball.norms import Euclidean
from normball.theory.lanes import Lanes
from normball.theory.problems import Problem, cosh, quadratic
from normball.theory.verdicts import side_by_side

__all__ = ["Separation", "separate"]


@dataclass(frozen=True)
class Separation:
    """The last dual norm of each method, step by step.

    Attributes:
        problem: its name.
        multiples: the step in units of the largest that a theorem allows GGNC: of `1/(2 L1)` for
            the length of a step, of `1/(2 L0)` for steepest descent's gamma.
        start: the dual norm at the start.
        sd: after the last step; infinite where the run overflowed.
        ucg: likewise.
        ggnc: likewise, with gamma at `1/(2 L0)` and `rho = multiple * L0/L1`.
    """

    problem: str
    multiples: tuple[float, ...]
    start: float
    sd: tuple[float, ...]
    ucg: tuple[float, ...]
    ggnc: tuple[float, ...]

    @property
    def holds(self) -> bool:
        """Whether SD diverges, uCG stalls in proportion to its step, and GGNC converges up to 1."""
        inside = [i for i, m in enumerate(self.multiples) if m <= 1]
        fits = max(self.multiples[i] for i in inside if self.sd[i] < 1e-3 * self.start)
        diverges = all(
            self.sd[i] > self.start for i, m in enumerate(self.multiples) if m > 10 * fits
        )
        stalls = self.ucg[inside[-1]] > 1e-6 * self.start
        converges = all(
            self.ggnc[i] < 1e-9 * self.start for i in inside if self.multiples[i] >= 0.1
        )
        return fits < 1 and diverges and stalls and converges


def separate(n: int = 3000, count: int = 41) -> Separation:
    """Run SD, uCG and GGNC on a cosh from far away, over five decades of steps.

    Args:
        n: steps of every run.
        count: of step sizes.
    """
    # Two more coordinates of a quadratic keep a fixed step from landing on the minimum.
    bowl = quadratic((0.3, 1.0), Euclidean())
    steep = cosh(torch.ones(1, dtype=torch.float64), Euclidean())
    problem = _sum(steep, bowl)
    multiples = torch.logspace(-4, 1, count, dtype=torch.float64)
    L0, L1 = problem.L0, problem.L1
    lr, gamma = multiples / (2 * L1), 1 / (2 * L0)

    def sd(d: Tensor, _: Tensor) -> Tensor:
        return steps.sd(d, 1.0) * multiples * gamma

    def ucg(d: Tensor, _: Tensor) -> Tensor:
        return steps.ucg(d, 1.0) * lr

    def ggnc(d: Tensor, _: Tensor) -> Tensor:
        # At rho = 1 the rule is homogeneous: gamma min(rho, d) = lr ggnc(d/rho).
        return steps.ggnc(d * gamma / lr, 1.0, 1.0) * lr

    rule, lanes = side_by_side([sd, ucg, ggnc], count)
    start = torch.as_tensor(problem.x0)
    trace = Lanes(problem, [start.repeat(3 * count, 1)]).run(rule, n)
    ends = [
        tuple(v if math.isfinite(v) else math.inf for v in trace.measure[-1, s].tolist())
        for s in lanes
    ]
    first = float(trace.measure[0, 0])
    return Separation(problem.name, tuple(multiples.tolist()), first, *ends)


def _sum(steep: Problem, bowl: Problem) -> Problem:
    """Return the sum of two problems on separate coordinates, in the Euclidean norm.

    `||g - g'||_2` is at most the largest of the blocks' constants times `||x - y||_2`, and `L1` of
    the first block with its own gradient is at most that with the whole one: `(max L0, L1)`.
    """
    cut = torch.as_tensor(steep.x0).numel()

    def fun(x: Tensor) -> Tensor:
        return steep.fun(x[:cut]) + bowl.fun(x[cut:])

    x0 = torch.cat([torch.as_tensor(steep.x0), torch.as_tensor(bowl.x0)])
    return Problem("cosh + quadratic", fun, x0, Euclidean(), max(steep.L0, bowl.L0), steep.L1, 2.0)
