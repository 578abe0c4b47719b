"""Many runs of one method at once, side by side in one batch, with everything measured.

This serves to check statements. `minimize` computes one gradient a step; this also measures what
the method does not know: the dual norm of the true gradient, and the error of the estimate.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.func import grad_and_value, vmap

from normball.theory.problems import Problem
from normball.theory.space import Parts, Space, dot

Rule = Callable[[Tensor, Tensor], Tensor]
"""From the slope `<d, u>` and `||u||`, both `(lanes,)`, to the step `t`, likewise."""


@dataclass(frozen=True)
class Trace:
    """The measurements at `x_1, ..., x_{n+1}` of every lane; float64, the lanes in dimension 1.

    Attributes:
        fun: shape `(n + 1, lanes)`.
        measure: the dual norm of the true gradient, or its gap; `(n + 1, lanes)`.
        step: the step taken; `(n, lanes)`.
        error: `||d_k - g(x_k)||_2^2` of the estimate that the step uses; `(n, lanes)`.
    """

    fun: Tensor
    measure: Tensor
    step: Tensor
    error: Tensor


@dataclass(frozen=True)
class Noise:
    """Gaussian noise of `E||xi||_2^2 = sigma^2` on the gradient, and the estimate's weight.

    Attributes:
        sigma: of all coordinates together.
        alpha: of the new gradient.
        seed: of the draws.
        nesterov: whether the step uses the estimate that looks ahead.
    """

    sigma: float
    alpha: float
    seed: int = 0
    nesterov: bool = False


class Lanes:
    """A problem on `lanes` points at once."""

    def __init__(self, problem: Problem, starts: Parts) -> None:
        self._space = Space(problem.norm, problem.x0)
        self._beta = problem.beta
        self._starts = starts
        self._corner = True

        def value(parts: Parts) -> Tensor:
            return problem.fun(self._space.pack(parts))

        self._evaluate = vmap(grad_and_value(value))
        self._minimise = vmap(self._space.lmo_and_dual)
        self._norm = vmap(self._space.norm)
        self._dot = vmap(dot)

    def run(self, rule: Rule, n: int, noise: Noise | None = None, corner: bool = True) -> Trace:
        """Take `n` steps from the starts and return what was measured.

        Args:
            rule: for the step.
            n: number of steps.
            noise: on the gradients; None for none.
            corner: whether the rule needs `||w||`; if not, it gets 1.
        """
        self._corner = corner
        draw = None if noise is None else _Estimates(noise, self._starts)
        x = self._starts
        rows: list[tuple[Tensor, ...]] = []
        for _ in range(n):
            grad, value = self._evaluate(x)
            estimate = grad if draw is None else draw.update(grad)
            slope, size, direction = self._aim(x, estimate)
            true = slope if draw is None else self._measure(x, grad)
            t = rule(slope, size)
            gaps = [d - g for d, g in zip(estimate, grad, strict=True)]
            rows.append((value, true, t, self._dot(gaps, gaps)))
            x = [a - _wide(t, a) * u for a, u in zip(x, direction, strict=True)]
        grad, value = self._evaluate(x)
        last = self._measure(x, grad)
        fun, measure, step, error = (torch.stack(c) for c in zip(*rows, strict=True))
        return Trace(torch.cat([fun, value[None]]), torch.cat([measure, last[None]]), step, error)

    def _measure(self, x: Parts, grad: Parts) -> Tensor:
        """Return the dual norm, or the gap, `(lanes,)`."""
        dual: Tensor = self._minimise(grad)[1]
        return dual if self._beta is None else self._dot(grad, x) + self._beta * dual

    def _aim(self, x: Parts, d: Parts) -> tuple[Tensor, Tensor, Parts]:
        """Return `<d, u>`, `||u||` and `u`."""
        lmo, dual = self._minimise(d)
        if self._beta is None:
            return dual, torch.ones_like(dual), [-v for v in lmo]
        corner = [a - self._beta * v for a, v in zip(x, lmo, strict=True)]
        size = self._norm(corner) if self._corner else torch.ones_like(dual)
        return self._dot(d, x) + self._beta * dual, size, corner


class _Estimates:
    """The estimates `d <- (1 - alpha) d + alpha (grad + noise)` of every lane, from 0."""

    def __init__(self, noise: Noise, like: Parts) -> None:
        self._alpha = noise.alpha
        self._nesterov = noise.nesterov
        self._d = [torch.zeros_like(x) for x in like]
        self._generator = torch.Generator().manual_seed(noise.seed)
        total = sum(x[0].numel() for x in like)
        self._deviation = noise.sigma / total**0.5

    def update(self, grad: Parts) -> Parts:
        """Draw, and return the new estimate, or the one that looks ahead."""
        used = []
        for i, g in enumerate(grad):
            noise = torch.randn(g.shape, generator=self._generator, dtype=g.dtype)
            new = g + self._deviation * noise
            self._d[i] = self._d[i].lerp(new, self._alpha)
            used.append(self._d[i].lerp(new, self._alpha) if self._nesterov else self._d[i])
        return used


def _wide(t: Tensor, like: Tensor) -> Tensor:
    """Reshape `(lanes,)` so that it broadcasts over `(lanes, ...)`."""
    return t.view(-1, *[1] * (like.ndim - 1))


def random_starts(problem: Problem, seeds: list[int], share: float = 0.9) -> Parts:
    """Return a start for every seed: around `x0`, or of norm `share * beta` inside the ball.

    Args:
        problem: with `x0` and perhaps a ball.
        seeds: one lane for each.
        share: of the ball's radius.

    Returns:
        Tensors of the shapes of `x0`, with a first dimension for the lanes.
    """
    space = Space(problem.norm, problem.x0)
    lanes = []
    for seed in seeds:
        generator = torch.Generator().manual_seed(seed)
        start = space.unpack(problem.x0)
        noise = [torch.randn(x.shape, generator=generator, dtype=x.dtype) for x in start]
        if problem.beta is not None:
            scale = share * problem.beta / float(space.norm(noise))
            start = [scale * x for x in noise]
        else:
            size = 0.1 * float(space.norm(start)) / float(space.norm(noise))
            start = [x + size * y for x, y in zip(start, noise, strict=True)]
        lanes.append(start)
    return [torch.stack(column) for column in zip(*lanes, strict=True)]
