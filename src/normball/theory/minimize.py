"""Minimise a function by the paper's methods, in the manner of `scipy.optimize.minimize`."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from numbers import Integral
from typing import Any

import torch
from torch import Tensor

from normball import steps
from normball.norms import Norm, Product
from normball.theory.methods import METHODS, Method, check_number, find_method
from normball.theory.space import Evaluation, Function, Parts, Point, Space, dot
from normball.theory.stepsizes import AdaGrad, Backtracking, Fixed, NoDescentError, Ray, StepSize

__all__ = ["METHODS", "History", "Iterate", "Result", "minimize"]


@dataclass(frozen=True)
class Iterate:
    """The argument of a callback, which is called once per iteration, before the step.

    Attributes:
        x: the point, of the structure of `x0`. Do not change it.
        fun: the function there.
        measure: the dual norm of the gradient estimate, or its Wolfe gap when constrained.
        nit: steps taken so far.
        nfev: evaluations so far.
    """

    x: Any
    fun: float
    measure: float
    nit: int
    nfev: int


@dataclass(frozen=True)
class History:
    """One entry per iterate, `nit + 1` in all, as float64 tensors.

    Attributes:
        fun: the function at the iterate.
        measure: the dual norm of the gradient estimate, or its Wolfe gap when constrained.
        step: the step taken from it, 0 at the last one: its length in units of the norm, or the
            share of the way to the corner of the ball when constrained.
    """

    fun: Tensor
    measure: Tensor
    step: Tensor


@dataclass(frozen=True)
class Result:
    """What a minimisation found.

    Attributes:
        x: the last point with a finite value, of the structure of `x0`.
        fun: the function there.
        nit: steps taken.
        nfev: evaluations of the function, those of rejected trials included.
        success: whether the tolerance was met; with `tol=0`, whether every step was taken.
        message: why it stopped.
        history: the run, iterate by iterate.
    """

    x: Any
    fun: float
    nit: int
    nfev: int
    success: bool
    message: str
    history: History


def minimize(
    fun: Function,
    x0: Point,
    *,
    method: str,
    norm: Norm | Product,
    gamma: float | str | None = None,
    rho: float | None = None,
    beta: float | None = None,
    alpha: float = 1.0,
    max_iter: int = 1000,
    tol: float = 1e-6,
    callback: Callable[[Iterate], None] | None = None,
) -> Result:
    """Minimise `fun`, over the whole space or over the ball `||x|| <= beta`.

    With the estimate `d <- (1 - alpha) d + alpha grad`, `v = -lmo(d)`, `w = x + beta v`:

    ===========  =====================================================  =======================
    method       step                                                   takes
    ===========  =====================================================  =======================
    sd           `x - gamma ||d||* v`                                   gamma
    ucg          `x - gamma rho v`                                      gamma, rho
    ggnc         `x - gamma min(rho, ||d||*) v`                         gamma, rho
    cg           `x - gamma w`                                          gamma, beta
    short-step   `x - min(1, gamma <d, w> / ||w||^2) w`                 gamma (1/L), beta
    s3cg-1       `x - gamma min(rho, <d, w> / ||w||^2) w`               gamma, rho, beta
    s3cg-2       `x - gamma min(rho, <d, w> / (4 beta^2)) w`            gamma, rho, beta
    ===========  =====================================================  =======================

    `gamma="backtracking"` and `gamma="adagrad"` need no constants. Backtracking works with all
    methods except ucg and cg; it needs a deterministic `fun` and `alpha=1`. AdaGrad works with the
    same methods except s3cg-1; for short-step it uses the `4 beta^2` form. With either of them,
    `rho` may be left out for ggnc, and s3cg takes no `rho`: both choose the threshold themselves.

    Args:
        fun: maps a point of the structure of `x0` to a 0-d tensor, differentiable by autograd. A
            stochastic function draws its own sample on every call.
        x0: the start, one tensor or a sequence. Several tensors need a `Product` norm, or a
            `VectorNorm`, which treats them as one vector. All is computed in its dtype. It is not
            changed.
        method: one of the table.
        norm: of the space.
        gamma: step size of the theory, or the name of a step size that knows no constants.
        rho: threshold of the dual norm (ucg, ggnc), of gap/norm^2 (s3cg).
        beta: radius of the ball, of the constrained methods.
        alpha: weight of the new gradient in the estimate, in (0, 1]; 1 means no momentum.
        max_iter: largest number of steps.
        tol: stop at a dual norm of the estimate (a Wolfe gap when constrained) of at most this; 0
            takes all of `max_iter` steps.
        callback: called with every iterate; raises `StopIteration` to stop there.

    Raises:
        ValueError: an unknown method; a parameter that is missing, that the method does not take,
            or that is out of range; `x0` outside the ball, with a value or gradient that is not
            finite, or with a value that autograd cannot trace back to it.
        TypeError: an argument that is not a number, tensor or norm where one is needed, or a `fun`
            that does not return a real 0-d tensor.

    Examples:
        >>> import torch
        >>> from normball.norms import Sign
        >>> from normball.theory import minimize
        >>> centre = torch.tensor([3.0, -1.0], dtype=torch.float64)
        >>> result = minimize(
        ...     lambda x: (x - centre).square().sum() / 2,
        ...     torch.zeros(2, dtype=torch.float64),
        ...     method="ggnc",
        ...     norm=Sign(normalized=False),
        ...     gamma="backtracking",
        ... )
        >>> result.success
        True
        >>> result.x
        tensor([ 3.0000, -1.0000], dtype=torch.float64)
    """
    chosen = find_method(method)
    chosen.check(gamma=gamma, rho=rho, beta=beta, alpha=alpha)
    if isinstance(max_iter, bool) or not isinstance(max_iter, Integral) or max_iter < 1:
        raise ValueError(f"max_iter={max_iter!r} must be a whole number of at least 1")
    check_number("tol", tol)
    if not tol >= 0:
        raise ValueError(f"tol={tol} must not be negative")
    if not isinstance(x0, Tensor):
        x0 = list(x0)
    space = Space(norm, x0)
    # Numbers of other libraries, such as NumPy's, would split tensors into single elements.
    gamma, rho, beta = (
        v if v is None or isinstance(v, str) else float(v) for v in (gamma, rho, beta)
    )
    step_size = _step_size(chosen, gamma, rho, beta)
    run = _Run(fun, space, chosen, step_size, beta, float(alpha))
    return run.go(space.unpack(x0), max_iter, tol, callback)


def _step_size(
    method: Method, gamma: float | str | None, rho: float | None, beta: float | None
) -> StepSize:
    threshold = math.inf if rho is None else rho
    if gamma == "backtracking":
        return Backtracking(threshold)
    if gamma == "adagrad":
        return AdaGrad(threshold)
    assert not isinstance(gamma, str | None)
    lr = gamma * threshold
    rules: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
        "sd": lambda slope, _: steps.sd(slope, gamma),
        "ucg": lambda slope, _: steps.ucg(slope, lr),
        "ggnc": lambda slope, _: steps.ggnc(slope, lr, threshold),
        "cg": lambda slope, _: steps.cg(slope, gamma),
        "short-step": lambda slope, size: steps.short_step_1(slope, size, 1.0, 1 / gamma),
        "s3cg-1": lambda slope, size: steps.short_step_1(slope, size, lr, threshold),
        "s3cg-2": lambda slope, _: steps.short_step_2(slope, lr, threshold, beta or 1.0),
    }
    return Fixed(rules[method.name])


class _Run:
    """One minimisation: its function, its estimate and its record."""

    def __init__(
        self,
        fun: Function,
        space: Space,
        method: Method,
        step_size: StepSize,
        beta: float | None,
        alpha: float,
    ) -> None:
        self._space = space
        self._fun = fun
        self._beta = beta
        self._alpha = alpha
        self._step_size = step_size
        # The other methods use the bound 2 beta in place of ||w||.
        self._measures_corner = method.measures_corner and not isinstance(step_size, AdaGrad)
        self._estimate: Parts | None = None
        self._nfev = 0
        self._record: list[tuple[float, float, float]] = []

    def go(
        self,
        x: Parts,
        max_iter: int,
        tol: float,
        callback: Callable[[Iterate], None] | None,
    ) -> Result:
        """Iterate from `x` until the tolerance, the step limit, or an error."""
        self._refuse_outside(x)
        here = self._evaluate(x)
        trouble = _trouble(here)
        if trouble:
            raise ValueError(f"x0 is no start: {trouble} there")
        if not here.differentiable:
            raise ValueError(
                "x0 is no start: fun there does not depend on it, as far as autograd can tell. Was "
                "it detached, or computed without gradients?"
            )
        for nit in range(max_iter + 1):
            ray = self._aim(here)
            measure = float(ray.slope)
            self._record.append((here.value, measure, 0.0))
            try:
                if callback is not None:
                    state = Iterate(self._space.pack(here.x), here.value, measure, nit, self._nfev)
                    callback(state)
            except StopIteration:
                return self._finish(here, False, "the callback stopped it")
            if tol > 0 and measure <= tol:
                return self._finish(here, True, f"the measure {measure:.3g} is at most tol={tol:g}")
            if nit == max_iter:
                break
            try:
                t, there = self._step_size.take(ray)
            except NoDescentError:
                message = "no step along the direction makes fun smaller: is it differentiable?"
                return self._finish(here, False, message)
            trouble = _trouble(there)
            if trouble:
                return self._finish(here, False, f"{trouble} after step {nit + 1}, of {t:.3g}")
            self._record[-1] = (here.value, measure, t)
            here = there
        return self._finish(here, *self._at_limit(max_iter, tol))

    def _evaluate(self, x: Parts) -> Evaluation:
        self._nfev += 1
        return Evaluation(self._fun, self._space, x)

    def _refuse_outside(self, x: Parts) -> None:
        if self._beta is None:
            return
        size = float(self._space.norm(x))
        if not size <= self._beta * (1 + 64 * torch.finfo(self._space.dtype).eps):
            raise ValueError(
                f"x0 lies outside the ball: norm(x0) = {size:g} > beta = {self._beta:g}"
            )

    def _aim(self, here: Evaluation) -> Ray:
        """Update the estimate, and return the ray to follow."""
        estimate = self._update(here.grad)
        lmo, dual = self._space.lmo_and_dual(estimate)
        one = dual.new_ones(())
        scale = max(1.0, float(self._space.norm(here.x)))
        make = partial(Ray, start=here, scale=scale, at=self._evaluate)
        if self._beta is None:
            return make(direction=[-v for v in lmo], slope=dual, size=one, limit=math.inf)
        beta = self._beta
        corner = [x - beta * v for x, v in zip(here.x, lmo, strict=True)]
        slope = dot(estimate, here.x) + beta * dual
        size = self._space.norm(corner) if self._measures_corner else 2 * beta * one
        return make(direction=corner, slope=slope, size=size, limit=1.0)

    def _update(self, grad: Parts) -> Parts:
        if self._alpha == 1:
            return grad
        old = self._estimate or [torch.zeros_like(g) for g in grad]
        self._estimate = [d.lerp(g, self._alpha) for d, g in zip(old, grad, strict=True)]
        return self._estimate

    def _at_limit(self, max_iter: int, tol: float) -> tuple[bool, str]:
        values = [value for value, _, _ in self._record]
        middle = len(values) // 2
        early, late = values[0] - values[middle], values[middle] - values[-1]
        bottom = -math.sqrt(torch.finfo(self._space.dtype).max)
        if late >= early > 0 or values[-1] < bottom:
            return False, (
                f"the limit of {max_iter} steps was reached with fun = {values[-1]:.3g}, which "
                "fell as fast at the end as at the start: it may be unbounded below"
            )
        if tol == 0:
            return True, f"all {max_iter} steps were taken, as tol=0 asks"
        measure = self._record[-1][1]
        return False, (
            f"the limit of {max_iter} steps was reached; the measure {measure:.3g} is above "
            f"tol={tol:g}"
        )

    def _finish(self, here: Evaluation, success: bool, message: str) -> Result:
        columns = torch.tensor(self._record, dtype=torch.float64).unbind(1)
        return Result(
            x=self._space.pack([x.clone() for x in here.x]),
            fun=here.value,
            nit=len(self._record) - 1,
            nfev=self._nfev,
            success=success,
            message=message,
            history=History(*columns),
        )


def _trouble(point: Evaluation) -> str:
    """Say what is not finite at a point; an empty string where all is."""
    if not math.isfinite(point.value):
        return f"fun returned {point.value}"
    if not all(bool(torch.isfinite(g).all()) for g in point.grad):
        return "the gradient is not finite"
    return ""
