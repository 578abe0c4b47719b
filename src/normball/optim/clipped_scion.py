"""Clipped Scion: generalized gradient norm clipping and the short step, for networks."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from normball import steps
from normball._scalar import Flag, Scalar, largest, number, tensor
from normball.norms import Norm
from normball.optim.base import NormBallOptimizer
from normball.optim.buckets import Bucket
from normball.optim.geometry import Layers
from normball.optim.keys import explained
from normball.optim.settings import CURVATURE, Group, Settings, layers
from normball.optim.threshold import MeasuredThreshold, slopes, split_state

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup
    from torch.distributed.device_mesh import DeviceMesh

# The default `lr`, for the radii of `param_groups`; the results are in docs/tuning.md.
LR, LR_IN_BALL = 2**-6, 2**-8


class ClippedScion(NormBallOptimizer):
    r"""Steepest descent below a threshold of the dual norm, norm-ball steps above it.

    With `d_l <- (1 - alpha) d_l + alpha g_l`, the estimate `e_l = (1 - alpha) d_l + alpha g_l` that
    looks ahead (`nesterov=False`: `e_l = d_l`, as in the paper), `v_l = -lmo_l(e_l)`, and with sums
    over all layers, a step is:

    - unconstrained (Algorithm 3 of arXiv 2506.01913): `x_l <- x_l - lr min(1, D / rho) r_l v_l`,
      `D = sum_l r_l ||e_l||_l*`;
    - constrained (Algorithm 4): `x_l <- x_l - lr clip(G / rho', 0, 1) (x_l + r_l v_l)`,
      `G = sum_l <e_l, x_l + r_l v_l>`, with `rho' = rho` for variant 2 (the paper's 4 is folded
      into `rho`) and `rho' = rho max_l (||x_l + r_l v_l||_l / r_l)^2` for variant 1.

    In the paper's symbols `lr = gamma rho`. `rho -> 0` gives `Scion`; a `rho` above every `D`
    gives steepest descent with step size `lr / rho`. Because `d_0 = 0`, `D` starts at a part of its
    usual size, `alpha` or with `nesterov` about twice that, so the first steps are short.

    Args:
        params: tensors, named tensors, or groups with the keys `params`, `norm`, `radius`, `lr`,
            `alpha` and `rho`; `normball.param_groups(model)` makes them.
        lr: length of the longest step in units of the norm, 2^-6 if None; if constrained, the
            largest share in [0, 1] of the way to the target on the ball, 2^-8 if None. A number or
            a 0-d tensor, like `rho`.
        rho: the threshold, positive, one number for all groups. It applies to the global dual norm
            `D`, in units of the loss per unit of the norm; if constrained, to the gap `G`, in units
            of the loss. If the loss is a sum over n samples instead of a mean, multiply by n.
            `"auto"` measures the threshold while training: it is `lr` times the curvature measured
            along the steps, a heuristic (`docs/tuning.md`). Step k is then at most
            `lr min(1, sqrt(50 / k))` long, and at least a quarter of that from the fifth step on.
            The groups hold the threshold as a tensor, which is 1 before the first step. To stop
            measuring, set `rho` to a number in every group. One step in five, and each of
            the first twenty, computes the minimisers twice. `"auto"` needs momentum, `alpha < 1`.
        alpha: weight of the new gradient, in (0, 1]; 0.1 is momentum 0.9, 1 keeps no momentum.
        norm: of the groups that have none; `ByShape()` if None.
        radius: of the groups that have none; if None it is 1, with a warning for a list of several
            matrices or kernels without groups, whose layers then have no radii of their own.
        constrained: keep every layer in its ball of radius `r_l`: weight decay by the Frank-Wolfe
            short step. The first step scales a layer that starts outside onto the ball, with a
            warning. Weights that something else moves out of the ball later are not scaled, also
            not after a resume: steps draw them back, or `normball.balls.project_(optimizer)` does.
        variant: 1 or 2, of the constrained step; 1 also computes a norm for every layer.
        nesterov: look ahead: the minimiser and `D` or `G` are those of `e_l`; only `d_l` is kept.
            False gives the paper's methods.
        average: weight in (0, 1] of a running average of the weights, which covers about the last
            `average` of all steps so far; with None there is no average. `eval()` puts the average
            into the model, and `train()` puts the fast weights, which are trained, back. 0.1 works
            for runs of any length, without a schedule.
        lazy: skip a row of an embedding table, or an expert of a stack, in a step in which its
            gradient is exactly 0: its weights and momentum do not change, and it adds nothing to
            `D` or `G`. A step whose gradients are all 0 changes nothing and is not counted. With
            False the decaying momentum still moves the weights, as in the formulas.
        maximize: ascend.
        state_dtype: dtype of the momentum; by default that of the parameter, float32 for 16-bit
            parameters. `torch.bfloat16` (2 bytes for each parameter) and `torch.int8` (1.03 bytes,
            in blocks of 32 that share a power of two; vectors keep the default) are rounded up or
            down at random, so that the mean is kept. The random bits depend on the step, the
            parameter's name and the place alone: replicas and resumed runs round alike. Minimisers
            are then computed from, and returned in, bfloat16. int8 takes parameters that are whole
            or sharded along dimension 0.
        reuse_grad: let `step` write into the gradients, which saves a buffer of their size;
            afterwards they hold no gradient.
        split: divide the costly minimisers of parameters that all ranks hold (DDP), or that the
            replicas of hybrid sharding hold, among all these ranks, which then exchange the
            results. Every rank must have gradients for the same parameters. The ranks of one copy
            of sharded parameters divide its minimisers anyway.
        comm_dtype: dtype in which ranks exchange matrices, such as `torch.bfloat16` for half of the
            bytes; by default that of the momentum. Estimates and minimisers are rounded to it, on
            every number of ranks alike (`docs/distributed.md` has the errors); sums stay in
            float64. Not with `constrained`, whose weights would leave the ball by the rounding.
        ranks_per_matrix: how many ranks compute the minimiser of one sharded matrix together, each
            from a part along the longer side and the sum of all parts' Gram matrices; more where
            the number does not divide the ranks that hold it. By default one rank gathers the
            matrix. For ranks that outnumber the matrices (`docs/distributed.md`). Norms and polar
            factors that need the matrix itself, and variant 1 of the constrained step, keep one
            rank.
        stages: for ranks that hold different parameters: a process group, or a mesh of one
            dimension, with one rank of every pipeline stage, such as `mesh["pp"]`. `D` or `G` is
            then that of all stages together, and if one stage has a gradient that is not finite,
            all stages skip the step. A group with `counted=False` holds copies of parameters that
            another stage counts (a tied head).
        capturable: keep `lr` and `rho` as 0-d tensors on the parameters' device, so that a CUDA
            graph can capture `step`. A replay reads their current values: change them by `fill_`,
            as torch's schedulers do. Norms that wait for the device, sharded parameters, `split`
            and `rho="auto"` are refused.

    Raises:
        TypeError: an unknown key in a group, a norm that is not a `Norm`, a tensor that is not
            real.
        ValueError: a number out of range, two values of `rho`, a norm that does not fit a shape,
            the same parameter twice, an empty list.

    Examples:
        >>> import torch
        >>> from torch import nn
        >>> from normball import ClippedScion, param_groups
        >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> optimizer = ClippedScion(param_groups(model), lr=2**-6, rho=10.0)
        >>> for x in torch.randn(3, 16, 4):
        ...     optimizer.zero_grad()
        ...     model(x).square().mean().backward()
        ...     optimizer.step()
        >>> seen = optimizer.metrics()
        >>> torch.allclose(seen["step_factor"], seen["dual_norm"] / 10.0)  # below the threshold
        True
    """

    _own = (*NormBallOptimizer._own, "_variant", "_threshold")

    @explained
    def __init__(
        self,
        params: ParamsT,
        lr: float | None = None,
        *,
        rho: float | Literal["auto"] = "auto",
        alpha: float = 0.1,
        norm: Norm | None = None,
        radius: float | None = None,
        constrained: bool = False,
        variant: int = 2,
        nesterov: bool = True,
        average: float | None = None,
        lazy: bool = True,
        maximize: bool = False,
        state_dtype: torch.dtype | None = None,
        reuse_grad: bool = False,
        split: bool = False,
        comm_dtype: torch.dtype | None = None,
        ranks_per_matrix: int = 1,
        stages: "ProcessGroup | DeviceMesh | None" = None,
        capturable: bool = False,
    ) -> None:
        if variant not in (1, 2):
            raise ValueError(f"variant={variant!r} must be 1 or 2")
        self._variant = variant
        self._threshold: MeasuredThreshold | None = None
        if isinstance(rho, str):
            if rho != "auto":
                raise ValueError(f'rho={rho!r} must be a positive number or "auto"')
            if capturable:
                raise ValueError(
                    'capturable=True and rho="auto" exclude each other: not every step measures, '
                    "and a graph repeats one"
                )
            self._threshold = MeasuredThreshold()
        lr = (LR_IN_BALL if constrained else LR) if lr is None else lr
        first = rho if self._threshold is None else self._threshold.rho
        super().__init__(
            params,
            {**layers(norm, radius), "lr": lr, "alpha": alpha, "rho": first},
            Settings(
                keys=("norm", "radius", "counted", "lr", "alpha", "rho"),
                numbers=("radius", "lr", "alpha", "rho"),
                common=("rho",),
                constrained=constrained,
                capturable=capturable,
            ),
            Layers(split, comm_dtype, ranks_per_matrix),
            maximize=maximize,
            state_dtype=state_dtype,
            reuse_grad=reuse_grad,
            nesterov=nesterov,
            average=average,
            lazy=lazy,
            stages=stages,
        )
        if norm is None and radius is None:
            self._warn_of_radii()

    @property
    def _needs_corner(self) -> bool:
        return self._constrained and self._variant == 1

    @property
    def _figures(self) -> list[str]:
        return super()._figures + ([] if self._threshold is None else [CURVATURE])

    @property
    def _measuring(self) -> MeasuredThreshold | None:
        """The measurement of the threshold; None once the groups hold a number instead."""
        threshold = self._threshold
        if threshold is None or self.param_groups[0]["rho"] is not threshold.rho:
            return None
        return threshold

    def _complete(self, given: Group, others: Sequence[Group]) -> tuple[Group, bool]:
        if self._threshold is not None:
            self._check_momentum(given.get("alpha", self.defaults["alpha"]))
            if not others:
                self.defaults["rho"] = self._threshold.rho  # all groups were taken out: go on
        return super()._complete(given, others)

    @staticmethod
    def _check_momentum(alpha: float) -> None:
        if alpha == 1:
            raise ValueError(
                'rho="auto" looks back at the last direction, which alpha=1 does not keep: take '
                "alpha < 1, or a number for rho"
            )

    def _longest(self) -> Scalar:
        """Return the largest `lr`."""
        lrs = [group["lr"] for group in self.param_groups]
        return largest([number(lr.reshape(()) if isinstance(lr, Tensor) else lr) for lr in lrs])

    def _look(self, buckets: list[Bucket], grads: list[Tensor], finite: Flag) -> None:
        threshold = self._measuring
        if threshold is None:
            return
        for group in self.param_groups:
            self._check_momentum(group["alpha"])
        if not threshold.due:
            return
        momenta = self._estimator.last(self.state, buckets)
        pairs = slopes(self._geometry, buckets, momenta, grads, self._constrained)
        if self._estimator.maximize:
            pairs = [(before, -after) for before, after in pairs]
        constrained, stages, zero = self._constrained, self._stages, self._zero()
        threshold.look(buckets, pairs, self._longest(), constrained, finite, stages, zero)

    def _factor(self, size: Scalar, corner: Scalar | None) -> Scalar:
        threshold = self._measuring
        if threshold is not None:
            rho = threshold.choose(size, corner, self._longest())
            for group in self.param_groups:
                group["rho"] = threshold.rho
        else:
            rho = number(self.param_groups[0]["rho"])
        if not self._constrained:
            return steps.ggnc(size, 1.0, rho)
        if corner is not None:
            return steps.short_step_1(size, corner, 1.0, rho)
        # The 4 beta^2 = 4 of the product's unit ball is folded into rho.
        return steps.short_step_2(size, 1.0, rho / 4)

    def _took(self, factor: Scalar, finite: Flag) -> None:
        threshold = self._measuring
        if threshold is not None:
            threshold.took(factor, self._longest(), finite)

    def metrics(self) -> dict[str, Tensor]:
        """Return the metrics of every norm-ball optimizer, and with `rho="auto"` why it chose so.

        See `Scion.metrics` for the first ones. The others, 0-d as well:

        - `shortest_step`, `longest_step`: the limits of the last step's length, in units of the
          norm; its length is `lr * step_factor`. If it is the shortest, the measured curvature
          asked for less;
        - `curvature`: `L`, so that `1/L` is the step size that was asked for;
        - `mean_curvature`: the running average of which `L` follows a low quantile. The further
          the two are apart, the less certain is `L`;
        - `swing`: the mean change of slope over the mean slope before a step. At 2 the slope turns
          round at every step, and the shortest step becomes longer; 0 if constrained.
        """
        seen = super().metrics()
        threshold = self._measuring
        if threshold is not None:
            like = seen["step_factor"]
            seen |= {name: tensor(value, like) for name, value in threshold.report().items()}
        return seen

    def state_dict(self) -> dict[str, Any]:
        """Return the state as tensors, numbers and strings; a norm is stored as its repr.

        With `rho="auto"` every group also has `curvature`, the measurements so far.
        """
        state = super().state_dict()
        threshold = self._measuring
        for group in state["param_groups"]:
            if threshold is not None:
                group[CURVATURE] = threshold.figures()
            else:
                group.pop(CURVATURE, None)
        return state

    def _checked(self, state_dict: dict[str, Any]) -> dict[str, Any]:
        plain, _ = split_state(state_dict, self._measuring is not None)
        return super()._checked(plain)

    def _loaded(self, state_dict: dict[str, Any]) -> None:
        super()._loaded(state_dict)
        if self._measuring is not None:
            _, figures = split_state(state_dict, True)
            self._measuring.restore(figures)
