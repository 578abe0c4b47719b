"""The length of a step: by the rules of `normball.steps`, by backtracking, or by AdaGrad.

Every method moves along a ray `x - t u`: unconstrained `u = v = -lmo(d)`, so `t` is the length of
the step; constrained `u = w = x - beta lmo(d)`, and `t` in [0, 1] is the share of the way.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from normball.theory.space import Evaluation, Parts, dot

_MOST_HALVINGS = 1000
_HIDDEN_HALVINGS = 4
_ROUNDING = 64


@dataclass(frozen=True)
class Ray:
    """The points `x - t u`, `0 <= t <= limit`, that one iteration may go to.

    Attributes:
        start: the function at `x`.
        direction: `u`.
        slope: `<d, u>`: the dual norm or the gap of the gradient estimate, 0-d.
        size: `||u||`, or the bound on it that the method uses; 0-d.
        limit: the largest `t`; 1 where the corner of the ball ends the ray, infinity elsewhere.
        scale: a length of the size of `x`, for the very first trial.
        at: evaluates the function at a point.
    """

    start: Evaluation
    direction: Parts
    slope: Tensor
    size: Tensor
    limit: float
    scale: float
    at: Callable[[Parts], Evaluation]

    def point(self, t: float) -> Parts:
        """Return `x - t u`; the tensors of `x` itself for `t = 0`."""
        if t == 0:
            return self.start.x
        return [x - t * u for x, u in zip(self.start.x, self.direction, strict=True)]

    def curvature(self, t: float, there: Evaluation) -> float:
        """Return `<g(x) - g(x - t u), u> / (t ||u||^2)`: below the smoothness constant."""
        change = float(self.slope) - float(dot(there.grad, self.direction))
        return _over(change, t * float(self.size) * float(self.size))

    def probe(self, length: float) -> float | None:
        """Return the curvature over a step of about `length`; None where it is not positive."""
        t = min(length / float(self.size), self.limit)
        curvature = self.curvature(t, self.at(self.point(t)))
        return curvature if 0 < curvature < math.inf else None


def _over(a: float, b: float) -> float:
    """Return `a/b`; infinity where `b` has underflowed."""
    return a / b if b else math.inf


class NoDescentError(ArithmeticError):
    """No step along the ray makes the function smaller."""


class StepSize(ABC):
    """Chooses `t` on a ray; may keep measurements from earlier rays."""

    @abstractmethod
    def take(self, ray: Ray) -> tuple[float, Evaluation]:
        """Return `t`, and the function at `x - t u`.

        Raises:
            NoDescentError: none was found.
        """


@dataclass
class Fixed(StepSize):
    """A rule of `normball.steps`: `t` from the slope and `||u||`, both 0-d."""

    rule: Callable[[Tensor, Tensor], Tensor]

    def take(self, ray: Ray) -> tuple[float, Evaluation]:
        """Return the rule's step."""
        t = float(self.rule(ray.slope, ray.size))
        return t, ray.at(ray.point(t))


@dataclass
class Backtracking(StepSize):
    """A local smoothness constant `M`, doubled until the step descends.

    With a threshold `rho`, `s = min(1, rho/slope)`; without, `s = 1`. The trial is
    `t = min(limit, s slope / (M ||u||^2))`. It is accepted if `f(x - t u) <= f(x) - t slope / 2`.
    The next iteration starts at `s` times the curvature measured along the step, at least `M / 2`.
    The factor `s` makes `M` an estimate of what the fixed step size needs: a curvature below
    `L0 + L1 slope` becomes a constant below `L0 + rho L1`. If rounding hides the decrease, the sign
    of the slope at the end decides instead: for a quadratic that is the same inequality.
    """

    rho: float = math.inf
    _constant: float | None = None

    def take(self, ray: Ray) -> tuple[float, Evaluation]:
        """Return the first trial that descends."""
        slope, size = float(ray.slope), float(ray.size)
        if slope <= 0 or size == 0:
            return 0.0, ray.start
        share = min(1.0, self.rho / slope)
        constant = self._constant or share * self._first(ray)
        for rejected in range(_MOST_HALVINGS):
            t = min(ray.limit, _over(share * slope, constant * size * size))
            there = ray.at(ray.point(t))
            if _descends(ray, t, there):
                # At the level of rounding the curvature is noise: keep the old value.
                if self._constant is None or not _hidden(ray, t, there):
                    seen = share * ray.curvature(t, there)
                    self._constant = min(max(constant / 2, seen), constant)
                return t, there
            if rejected == _HIDDEN_HALVINGS and _hidden(ray, t, there):
                self._constant = 2 * (self._constant or constant)
                return 0.0, ray.start
            constant *= 2
        raise NoDescentError

    def _first(self, ray: Ray) -> float:
        eps = torch.finfo(ray.start.x[0].dtype).eps
        size = float(ray.size)
        return ray.probe(eps ** (1 / 3) * ray.scale) or float(ray.slope) / (ray.scale * size)


def _hidden(ray: Ray, t: float, there: Evaluation) -> bool:
    """Tell whether the required decrease is below the rounding error of the values."""
    eps = torch.finfo(ray.start.x[0].dtype).eps
    size = max(abs(there.value), abs(ray.start.value))
    return t * float(ray.slope) / 2 <= _ROUNDING * eps * size


def _descends(ray: Ray, t: float, there: Evaluation) -> bool:
    if not math.isfinite(there.value):
        return False
    if _hidden(ray, t, there):
        return float(dot(there.grad, ray.direction)) >= 0
    return there.value <= ray.start.value - t * float(ray.slope) / 2


@dataclass
class AdaGrad(StepSize):
    """AdaGrad with one number for all coordinates, in dual norms.

    Unconstrained: `t_k = eta s_k / sqrt(s_1^2 + ... + s_k^2)` with `s = min(rho, ||d||*)`, and
    `eta = ||d_1||* / C`, where `C` is the curvature over a first trial of a tenth of `max(1,
    ||x_1||)`. Constrained: `s = gap` and `eta = 1`, so that no trial step is needed.
    """

    rho: float = math.inf
    _eta: float | None = None
    _sum: float = 0.0

    def take(self, ray: Ray) -> tuple[float, Evaluation]:
        """Return the step; the first one has the length `eta`."""
        slope = float(ray.slope)
        if slope <= 0:
            return 0.0, ray.at(ray.start.x)
        if self._eta is None:
            self._eta = 1.0 if ray.limit == 1 else self._first(ray)
        share = min(self.rho, slope)
        self._sum = math.hypot(self._sum, share)
        t = self._eta * share / self._sum
        return t, ray.at(ray.point(t))

    @staticmethod
    def _first(ray: Ray) -> float:
        curvature = ray.probe(ray.scale / 10)
        return ray.scale if curvature is None else float(ray.slope) / curvature
