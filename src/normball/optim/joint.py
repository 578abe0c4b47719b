"""GGNC and S3CG: the paper's Algorithms 1 and 2, with one norm over all parameters together."""

from typing import Any

import torch
from torch.optim.optimizer import ParamsT

from normball import steps
from normball._scalar import Scalar, number
from normball.norms import Norm
from normball.optim import validate
from normball.optim.base import NormBallOptimizer
from normball.optim.geometry import Joint
from normball.optim.keys import explained
from normball.optim.settings import Settings


class _JointOptimizer(NormBallOptimizer):
    """The shared part of both: the paper's parameters, one norm, one radius."""

    def __init__(
        self,
        params: ParamsT,
        gamma: float,
        rho: float,
        norm: Norm,
        alpha: float,
        radius: float,
        constrained: bool,
        capturable: bool,
        options: dict[str, Any],
    ) -> None:
        super().__init__(
            params,
            {"norm": norm, "radius": radius, "lr": gamma, "alpha": alpha, "rho": rho},
            Settings(
                keys=(),
                numbers=("radius", "lr", "alpha", "rho"),
                common=("radius", "lr", "rho"),
                step="gamma",
                constrained=constrained,
                capturable=capturable,
            ),
            Joint(validate.check_norm(norm)),
            **options,
        )


class GGNC(_JointOptimizer):
    r"""Generalized gradient norm clipping in one norm (Algorithm 1 of arXiv 2506.01913).

    With `d <- (1 - alpha) d + alpha g` over all parameters together, and `v = -lmo(d)`:
    `x <- x - gamma min(rho, ||d||*) v`. Steepest descent while the dual norm is at most `rho`,
    steps of length `gamma rho` above. With `Euclidean()` and `alpha=1` it is
    `clip_grad_norm_(rho)` followed by SGD with `gamma`.

    A vector norm is that of the concatenation of all parameters, which is never built. A matrix
    norm takes a single tensor. For networks use `ClippedScion`, which has a norm for every layer.

    Args:
        params: tensors, named tensors, or groups with the key `params` alone.
        gamma: step size, not negative; descent is proved for `gamma <= 1 / (L0 + rho L1)`. The
            groups keep it as `lr`, so schedulers change it.
        rho: threshold of the dual norm, positive.
        norm: an object of `normball.norms`. `RMS` counts the entries that have a gradient.
        alpha: weight of the new gradient, in (0, 1]; 1 keeps no momentum.
        nesterov: as in `ClippedScion`; the default is False, as in the paper.
        average, maximize, state_dtype, reuse_grad, capturable: as in `ClippedScion`.

    Raises:
        TypeError: an unknown key in a group, a norm that is not a `Norm`, a tensor that is not
            real.
        ValueError: a number out of range, several tensors with a norm that takes only one, a norm
            that does not fit a shape, the same parameter twice, an empty list.

    Examples:
        >>> import torch
        >>> from normball import GGNC
        >>> from normball.norms import Euclidean
        >>> w = torch.nn.Parameter(torch.tensor([3.0, 4.0]))
        >>> optimizer = GGNC([w], gamma=0.25, rho=2.0, norm=Euclidean())
        >>> w.square().sum().backward()
        >>> optimizer.step()
        >>> w.detach()  # a step of length gamma * rho = 0.5, as the dual norm is above rho
        tensor([2.7000, 3.6000])
        >>> float(optimizer.metrics()["dual_norm"])
        10.0
    """

    @explained
    def __init__(
        self,
        params: ParamsT,
        *,
        gamma: float,
        rho: float,
        norm: Norm,
        alpha: float = 1.0,
        nesterov: bool = False,
        average: float | None = None,
        maximize: bool = False,
        state_dtype: torch.dtype | None = None,
        reuse_grad: bool = False,
        capturable: bool = False,
    ) -> None:
        options = {
            "nesterov": nesterov,
            "average": average,
            "maximize": maximize,
            "state_dtype": state_dtype,
            "reuse_grad": reuse_grad,
        }
        super().__init__(params, gamma, rho, norm, alpha, 1.0, False, capturable, options)

    def _factor(self, size: Scalar, corner: Scalar | None) -> Scalar:  # noqa: ARG002
        return steps.ggnc(size, 1.0, number(self.param_groups[0]["rho"]))


class S3CG(_JointOptimizer):
    r"""The stochastic short step conditional gradient (Algorithm 2 of arXiv 2506.01913).

    With `d <- (1 - alpha) d + alpha g` over all parameters together and `w = x - beta lmo(d)`:
    `x <- x - gamma eta w`, where `eta` is `min(rho, <d, w> / ||w||^2)` (variant 1) or
    `min(rho, <d, w> / (4 beta^2))` (variant 2), and 0 where `<d, w>` is negative. From a start in
    the ball of radius `beta` all iterates stay there. Frank-Wolfe's short step with `gamma = 1/L`,
    `rho = L`.

    Args:
        params: tensors, named tensors, or groups with the key `params` alone. The first step scales
            parameters that start outside the ball onto it, with a warning.
        gamma: step size, with `gamma * rho <= 1`. The groups keep it as `lr`, so schedulers change
            it.
        rho: threshold, positive.
        beta: radius of the ball, positive.
        norm: an object of `normball.norms`, as in `GGNC`. Unless it is `Sign`, every parameter must
            have a gradient at every step.
        alpha: weight of the new gradient, in (0, 1]; 1 keeps no momentum.
        variant: 1 or 2.
        nesterov: as in `ClippedScion`; the default is False, as in the paper.
        average, maximize, state_dtype, reuse_grad, capturable: as in `ClippedScion`.

    Raises:
        TypeError: an unknown key in a group, a norm that is not a `Norm`, a tensor that is not
            real.
        ValueError: a number out of range, `gamma * rho > 1`, several tensors with a norm that takes
            only one, a norm that does not fit a shape, the same parameter twice, an empty list.

    Examples:
        >>> import torch
        >>> from normball import S3CG
        >>> from normball.norms import Euclidean
        >>> w = torch.nn.Parameter(torch.tensor([3.0, 4.0]))
        >>> optimizer = S3CG([w], gamma=0.25, rho=2.0, beta=5.0, norm=Euclidean())
        >>> w.square().sum().backward()
        >>> optimizer.step()
        >>> w.detach()  # a quarter of the way to (-3, -4), on the other side of the ball
        tensor([1.5000, 2.0000])
        >>> optimizer.metrics()["gap"].round(decimals=2)
        tensor(100., dtype=torch.float64)
    """

    _own = (*NormBallOptimizer._own, "_variant")

    @explained
    def __init__(
        self,
        params: ParamsT,
        *,
        gamma: float,
        rho: float,
        beta: float,
        norm: Norm,
        alpha: float = 1.0,
        variant: int = 1,
        nesterov: bool = False,
        average: float | None = None,
        maximize: bool = False,
        state_dtype: torch.dtype | None = None,
        reuse_grad: bool = False,
        capturable: bool = False,
    ) -> None:
        if variant not in (1, 2):
            raise ValueError(f"variant={variant!r} must be 1 or 2")
        beta = validate.check_number("beta", beta, low=0, open_low=True)
        self._variant = variant
        options = {
            "nesterov": nesterov,
            "average": average,
            "maximize": maximize,
            "state_dtype": state_dtype,
            "reuse_grad": reuse_grad,
        }
        super().__init__(params, gamma, rho, norm, alpha, beta, True, capturable, options)

    @property
    def _needs_corner(self) -> bool:
        return self._variant == 1

    def _factor(self, size: Scalar, corner: Scalar | None) -> Scalar:
        group = self.param_groups[0]
        rho, beta = number(group["rho"]), float(group["radius"])
        if corner is None:
            return steps.short_step_2(size, 1.0, rho, beta)
        return steps.short_step_1(size, corner * beta, 1.0, rho)
