"""Scion: the norm-ball methods without clipping, which Clipped Scion is measured against."""

from typing import TYPE_CHECKING

import torch
from torch.optim.optimizer import ParamsT

from normball._scalar import Scalar
from normball.norms import Norm
from normball.optim.base import NormBallOptimizer
from normball.optim.geometry import Layers
from normball.optim.keys import explained
from normball.optim.settings import Settings, layers

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup
    from torch.distributed.device_mesh import DeviceMesh


class Scion(NormBallOptimizer):
    r"""Stochastic conditional gradient over a product of norm balls, without clipping.

    With `d_l <- (1 - alpha) d_l + alpha g_l`, the estimate `e_l = (1 - alpha) d_l + alpha g_l` that
    looks ahead (`nesterov=False`: `e_l = d_l`, as published) and `v_l = -lmo_l(e_l)`:

    - unconstrained (uSCG): `x_l <- x_l - lr r_l v_l`;
    - constrained (SCG): `x_l <- (1 - lr) x_l - lr r_l v_l`, which keeps `||x_l||_l <= r_l`.

    Pethick et al., "Training deep learning models with norm-constrained LMOs", arXiv 2502.07529.
    It is the limit `rho -> 0` of `ClippedScion`.

    Args:
        params: tensors, named tensors, or groups with the keys `params`, `norm`, `radius`, `lr` and
            `alpha`; `normball.param_groups(model)` makes them.
        lr: length of a step in units of the norm; if constrained, the share in [0, 1] of the way to
            the target on the ball. A number or a 0-d tensor.
        alpha: weight of the new gradient, in (0, 1]; 0.1 is momentum 0.9, 1 keeps no momentum.
        norm, radius: of the groups that have none, as in `ClippedScion`.
        constrained: keep every layer in its ball of radius `r_l`: weight decay tied to the step.
            The first step scales a layer that starts outside onto the ball, with a warning.
        nesterov: look ahead: the minimiser and the dual norm are those of `e_l`; only `d_l` is
            kept. False gives the published method.
        average: weight in (0, 1] of a running average of the weights, which covers about the last
            `average` of all steps so far; with None there is no average. `eval()` puts the average
            into the model, and `train()` puts the fast weights, which are trained, back. 0.1 works
            for runs of any length, without a schedule.
        lazy: skip a row of an embedding table, or an expert of a stack, in a step in which its
            gradient is exactly 0: its weights and momentum do not change, and it adds nothing to
            the dual norm. A step whose gradients are all 0 changes nothing and is not counted. With
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
        ranks_per_matrix: how many ranks compute the minimiser of one sharded matrix together, as
            in `ClippedScion`.
        stages: for ranks that hold different parameters: a process group, or a mesh of one
            dimension, with one rank of every pipeline stage, such as `mesh["pp"]`. The dual norm is
            then that of all stages together, and if one stage has a gradient that is not finite,
            all stages skip the step. A group with `counted=False` holds copies of parameters that
            another stage counts (a tied head).
        capturable: keep `lr` as a 0-d tensor on the parameters' device, so that a CUDA graph can
            capture `step`. A replay reads its current value: change it by `fill_`, as torch's
            schedulers do. Norms that wait for the device, sharded parameters and `split` are
            refused.

    Raises:
        TypeError: an unknown key in a group, a norm that is not a `Norm`, a tensor that is not
            real.
        ValueError: a number out of range, a norm that does not fit a shape, the same parameter
            twice, an empty list.

    Examples:
        >>> import torch
        >>> from normball import Scion
        >>> from normball.norms import Sign
        >>> w = torch.nn.Parameter(torch.tensor([3.0, 4.0]))
        >>> optimizer = Scion([{"params": [w], "norm": Sign(), "radius": 1.0}], lr=0.5)
        >>> w.square().sum().backward()
        >>> optimizer.step()
        >>> w.detach(), float(optimizer.metrics()["step_factor"])
        (tensor([2.5000, 3.5000]), 1.0)
    """

    @explained
    def __init__(
        self,
        params: ParamsT,
        lr: float,
        *,
        alpha: float = 0.1,
        norm: Norm | None = None,
        radius: float | None = None,
        constrained: bool = False,
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
        super().__init__(
            params,
            {**layers(norm, radius), "lr": lr, "alpha": alpha},
            Settings(
                keys=("norm", "radius", "counted", "lr", "alpha"),
                numbers=("radius", "lr", "alpha"),
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
    def _sums_up(self) -> bool:
        return False

    def _factor(self, size: Scalar, corner: Scalar | None) -> Scalar:  # noqa: ARG002
        return torch.ones_like(size) if isinstance(size, torch.Tensor) else 1.0
