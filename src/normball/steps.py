"""The step rules: how far to go, once the direction is known.

A direction comes from a norm, `v = -lmo(d)`; a rule turns scalars into a step length `t`:

- unconstrained: `x <- x - t v`, and `t` is the length of the step in units of the norm;
- constrained to the ball of radius `beta`: `x <- x - t w` with `w = x + beta v`, and `t` is the
  share of the way to the corner `-beta v` of the ball.

`dual_norm` is `<d, v>`, `gap` is `<d, w>`; they and the results are tensors of one shape, 0-d for
one problem, or Python numbers. `gamma` is the step size of the theory, `rho` the threshold, and
`lr = gamma rho` the longest step of a clipped rule. No rule waits for a device.
"""

from typing import Any, TypeVar, cast

import torch
from torch import Tensor

from normball._scalar import clamp, where

_Number = TypeVar("_Number", bound=float | Tensor)


def sd(dual_norm: Tensor, gamma: float) -> Tensor:
    """Return `gamma ||d||*`: steepest descent, `x <- x - gamma sharp(d)`.

    Examples:
        >>> import torch
        >>> from normball import steps
        >>> steps.sd(torch.tensor([1.0, 4.0]), gamma=0.25)
        tensor([0.2500, 1.0000])
    """
    return gamma * dual_norm


def ucg(dual_norm: Tensor, lr: float) -> Tensor:
    """Return `lr`, whatever the dual norm: unconstrained conditional gradient, uSCG.

    Examples:
        >>> import torch
        >>> from normball import steps
        >>> steps.ucg(torch.tensor([1.0, 4.0]), lr=0.5)
        tensor([0.5000, 0.5000])
    """
    return torch.full_like(dual_norm, lr)


def ggnc(dual_norm: _Number, lr: float, rho: float | Tensor) -> _Number:
    """Return `gamma min(rho, ||d||*)`: generalized gradient norm clipping (Algorithm 1).

    Steepest descent up to the threshold, conditional gradient above it; equivalently the minimiser
    of `gamma <d, x - x_k> + ||x - x_k||^2 / 2` over `||x - x_k|| <= gamma rho`.

    Examples:
        >>> import torch
        >>> from normball import steps
        >>> steps.ggnc(torch.tensor([1.0, 2.0, 4.0]), lr=0.5, rho=2.0)
        tensor([0.2500, 0.5000, 0.5000])
    """
    share: Any = clamp(dual_norm / rho, high=1.0)
    return cast(_Number, lr * share)


def cg(gap: Tensor, gamma: float) -> Tensor:
    """Return `gamma`, whatever the gap: the open-loop conditional gradient (Frank-Wolfe), SCG.

    Examples:
        >>> import torch
        >>> from normball import steps
        >>> steps.cg(torch.tensor([1.0, 4.0]), gamma=0.5)
        tensor([0.5000, 0.5000])
    """
    return torch.full_like(gap, gamma)


def short_step_1(gap: _Number, w_norm: _Number, lr: float, rho: float | Tensor) -> _Number:
    """Return `gamma min(rho, gap / ||w||^2)`: the short step, variant 1 (Algorithm 2).

    With `gamma = 1/L` and `rho = L` it is Frank-Wolfe's deterministic short step. 0 where `gap` is
    negative (the start lies outside the ball) or `w` is 0 (the corner is reached).

    Examples:
        >>> import torch
        >>> from normball import steps
        >>> gap, w_norm = torch.tensor([1.0, 2.0, 8.0]), torch.tensor([2.0, 2.0, 2.0])
        >>> steps.short_step_1(gap, w_norm, lr=1.0, rho=1.0)
        tensor([0.2500, 0.5000, 1.0000])
    """
    square: Any = w_norm * w_norm  # type: ignore[operator]
    reached = square == 0
    share: Any = where(reached, 0.0, gap / where(reached, 1.0, square))
    return cast(_Number, lr * clamp(share / rho, 0.0, 1.0))


def short_step_2(gap: _Number, lr: float, rho: float | Tensor, beta: float = 1.0) -> _Number:
    """Return `gamma min(rho, gap / (4 beta^2))`: the short step, variant 2 (Algorithm 2).

    `2 beta` bounds `||w||` inside the ball, so no norm is needed. 0 where `gap` is negative.

    Examples:
        >>> import torch
        >>> from normball import steps
        >>> steps.short_step_2(torch.tensor([-1.0, 2.0, 8.0]), lr=1.0, rho=1.0)
        tensor([0.0000, 0.5000, 1.0000])
    """
    share: Any = clamp(gap / (4 * beta**2) / rho, 0.0, 1.0)
    return cast(_Number, lr * share)
