"""Scion: the norm-ball methods without clipping, which Clipped Scion is measured against."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from normball.norms import ByShape
from normball.optim.base import NormBallOptimizer
from normball.optim.geometry import Layers
from normball.optim.settings import Settings

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
            `alpha`; `normball.param_groups(model)` makes them. Without a norm, `ByShape()`.
        lr: length of a step in units of the norm; constrained, the share in [0, 1] of the way to
            the target on the ball. A number or a 0-d tensor.
        alpha: weight of the new gradient, in (0, 1]; 0.1 is momentum 0.9, 1 keeps no momentum.
        constrained: keep every layer in its ball of radius `r_l`: weight decay tied to the step. A
            layer that starts outside is scaled onto it at the first step, with a warning.
        nesterov: look ahead: the minimiser and the dual norm are those of `e_l`; only `d_l` is
            kept. The published method has False.
        average: weight in (0, 1] of a running average of the weights, over about the last `average`
            of all steps so far; None keeps none. `eval()` puts it into the model, `train()` takes
            the fast weights back. 0.1 serves runs of any length, without a schedule.
        lazy: let a row of a table, or an expert of a stack, rest in a step in which its gradient is
            exactly 0: weights and momentum stay, and it adds nothing to the dual norm. With
            False it goes on along its fading momentum, as the formulas say.
        maximize: ascend.
        state_dtype: of the momentum; by default that of the parameter, float32 for 16-bit ones.
        reuse_grad: let `step` write into the gradients, which saves a buffer of their size;
            afterwards they hold no gradient.
        split: share the costly minimisers of parameters that all ranks hold (DDP) out over the
            ranks of the default process group, and send the results round. Every rank must then
            have gradients for the same parameters. What is sharded is shared out anyway.
        stages: where ranks hold different parameters: a process group, or a mesh of one dimension,
            with one rank of every pipeline stage, such as `mesh["pp"]`. The global number is then
            that of all stages, and a gradient that is not finite in one makes all skip. A group
            with `counted=False` holds copies of what another stage counts (a tied head).
        capturable: keep `lr` and `rho` as 0-d tensors beside the parameters, so that `step` can be
            captured in a CUDA graph, which sees their later values: change them by `fill_`, as
            torch's schedulers do. Norms that wait for the device, sharded parameters and `split`
            are refused.

    Raises:
        TypeError: an unknown key in a group, a norm that is none, a tensor that is not real.
        ValueError: a number out of range, a norm that does not fit a shape, a parameter twice, an
            empty list.

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

    def __init__(
        self,
        params: ParamsT,
        lr: float,
        *,
        alpha: float = 0.1,
        constrained: bool = False,
        nesterov: bool = True,
        average: float | None = None,
        lazy: bool = True,
        maximize: bool = False,
        state_dtype: torch.dtype | None = None,
        reuse_grad: bool = False,
        split: bool = False,
        stages: "ProcessGroup | DeviceMesh | None" = None,
        capturable: bool = False,
    ) -> None:
        super().__init__(
            params,
            {"norm": ByShape(), "radius": 1.0, "lr": lr, "alpha": alpha},
            Settings(
                keys=("norm", "radius", "counted", "lr", "alpha"),
                numbers=("radius", "lr", "alpha"),
                constrained=constrained,
                capturable=capturable,
            ),
            Layers(split),
            maximize=maximize,
            state_dtype=state_dtype,
            reuse_grad=reuse_grad,
            nesterov=nesterov,
            average=average,
            lazy=lazy,
            stages=stages,
        )

    def _factor(self, size: Tensor, corner: Tensor | None) -> Tensor:  # noqa: ARG002
        return torch.ones_like(size)
