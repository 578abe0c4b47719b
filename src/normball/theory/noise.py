"""Noise on the gradients of a problem, of bounded variance or with heavy tails.

Examples:
    >>> from normball.norms import Euclidean
    >>> from normball.theory import noise, problems
    >>> problem = noise.with_noise(problems.quadratic([1.0, 10.0], Euclidean()), sigma=0.1)
    >>> bool(problem.fun(problem.x0) == problem.fun(problem.x0))  # another sample at every call
    False
"""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from normball.theory.problems import Problem

__all__ = ["with_heavy_tails", "with_noise"]


def with_noise(problem: Problem, sigma: float, seed: int = 0) -> Problem:
    """Add `<xi, x>` to the function, a new Gaussian `xi` on every call: `E||xi||_2^2 = sigma^2`.

    The gradient becomes unbiased with bounded variance; the constants are those of the mean.
    """
    generator = torch.Generator().manual_seed(seed)

    def draw(x: Tensor, total: int) -> Tensor:
        noise = torch.randn(x.shape, generator=generator, dtype=x.dtype)
        return noise * (sigma / math.sqrt(total))

    return _noisy(problem, draw)


def with_heavy_tails(problem: Problem, sigma: float, tail: float = 1.5, seed: int = 0) -> Problem:
    """Add `<xi, x>` with symmetric Pareto entries: unbiased, but of infinite variance.

    `P(|xi_i| > z) = (1 + z/sigma)^-tail` with `tail` in (1, 2]: the mean exists, the variance does
    not. Thm 4.9 does not cover it.

    Raises:
        ValueError: `tail` lies outside (1, 2].
    """
    if not 1 < tail <= 2:
        raise ValueError(f"tail={tail} must lie in (1, 2]")
    generator = torch.Generator().manual_seed(seed)

    def draw(x: Tensor, _total: int) -> Tensor:
        uniform = torch.rand(x.shape, generator=generator, dtype=x.dtype)
        sign = torch.randint(0, 2, x.shape, generator=generator).to(x.dtype) * 2 - 1
        return sign * sigma * ((1 - uniform) ** (-1 / tail) - 1)

    return _noisy(problem, draw)


def _noisy(problem: Problem, draw: Callable[[Tensor, int], Tensor]) -> Problem:
    def fun(x: Any) -> Tensor:
        parts = [x] if isinstance(x, Tensor) else list(x)
        total = sum(part.numel() for part in parts)
        noise = [(draw(part.detach(), total) * part).sum() for part in parts]
        value: Tensor = problem.fun(x) + torch.stack(noise).sum()
        return value

    return replace(problem, name=f"{problem.name}, noisy", fun=fun)
