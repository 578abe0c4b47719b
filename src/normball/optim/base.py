"""The shell of every optimizer: estimate, minimiser, one global number, step."""

import warnings
from abc import abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, cast, overload

import torch
from torch import Tensor
from torch.nn.utils import get_total_norm
from torch.optim import Optimizer
from torch.optim.optimizer import ParamsT

from normball._numeric import as_working, inner
from normball.norms import ByShape, Norm
from normball.optim import checkpoint, metrics, validate

Group = dict[str, Any]


@dataclass
class Block:
    """One parameter during one step."""

    name: str
    param: Tensor
    grad: Tensor
    group: int
    norm: Norm
    radius: float
    lr: float
    alpha: float


class NormBallOptimizer(Optimizer):
    """Steps along `v_l = -lmo_l(d_l)` in every layer, with one global number for their length.

    The estimate is `d <- (1 - alpha) d + alpha g` from `d_0 = 0`; the norm of the network is the
    product norm `max_l ||W_l||_l / r_l`. A subclass says, in `_factor`, which share of the longest
    step to take.
    """

    # The numbers that a group holds, and the attributes that a copy of the optimizer keeps.
    _numbers: tuple[str, ...] = ("radius", "lr", "alpha")
    _own: tuple[str, ...] = ("_constrained", "_maximize", "_state_dtype", "_reuse_grad", "_record")

    def __init__(
        self,
        params: ParamsT,
        defaults: Group,
        *,
        constrained: bool,
        maximize: bool,
        state_dtype: torch.dtype | None,
        reuse_grad: bool,
    ) -> None:
        if state_dtype is not None and not state_dtype.is_floating_point:
            raise ValueError(f"state_dtype={state_dtype} must be a floating dtype")
        self._constrained = constrained
        self._maximize = maximize
        self._state_dtype = state_dtype
        self._reuse_grad = reuse_grad
        self._inside: set[Tensor] = set()
        self._record = metrics.Record()
        if isinstance(params, Tensor):
            raise TypeError("params must be an iterable of tensors or groups: write [tensor]")
        super().__init__(params, {"norm": ByShape(), "radius": 1.0, **defaults})

    @abstractmethod
    def _factor(self, size: Tensor, corner: Tensor | None) -> Tensor:
        """Return the share of the longest step in [0, 1], 0-d.

        `size` is the global dual norm, or the global gap when constrained. `corner` is the global
        `max_l ||w_l||_l / r_l`, given only where `_needs_corner`.
        """

    @property
    def _needs_corner(self) -> bool:
        return False

    # -- parameters and their groups -----------------------------------------------------------

    def add_param_group(self, param_group: Group) -> None:
        """Add a group: `params`, and optionally `norm`, `radius`, `lr`, `alpha` and `rho`.

        Raises:
            TypeError: an unknown key, a norm that is none, a tensor that is not real and dense.
            ValueError: a number out of range, a norm that does not fit a shape, a parameter twice.
        """
        if not isinstance(param_group, dict):
            raise TypeError(f"a parameter group must be a dict, not {type(param_group).__name__}")
        group = dict(param_group)
        validate.check_keys(group, {"params", "norm", *self._numbers})
        if "rho" in self._numbers and self.param_groups:
            group.setdefault("rho", self.param_groups[0]["rho"])
        group = {key: value for key, value in self.defaults.items() if key not in group} | group
        params = group["params"]
        group["params"] = [params] if isinstance(params, Tensor) else list(params)
        group["norm"] = validate.check_norm(group["norm"])
        self._check_numbers(group)
        if self.param_groups:
            self._check_rho([*self.param_groups, group])
        self._check_params(group)
        super().add_param_group(group)

    def _check_numbers(self, group: Group) -> None:
        high = 1.0 if self._constrained else float("inf")
        try:
            group["lr"] = validate.check_number("lr", group["lr"], low=0, high=high)
        except ValueError as error:
            if self._constrained and float(group["lr"]) > 1:
                raise ValueError(
                    f"{error}: in a constrained method lr is the share of the way to the edge of "
                    "the ball"
                ) from None
            raise
        group["alpha"] = validate.check_number(
            "alpha", group["alpha"], low=0, high=1, open_low=True
        )
        group["radius"] = validate.check_number("radius", group["radius"], low=0, open_low=True)
        if "rho" in self._numbers:
            group["rho"] = validate.check_number("rho", group["rho"], low=0, open_low=True)

    def _check_rho(self, groups: list[Group]) -> None:
        if "rho" not in self._numbers:
            return
        values = {group["rho"] for group in groups}
        if len(values) > 1:
            raise ValueError(
                f"rho is one threshold over all layers, but the groups hold {sorted(values)}: "
                "set the same value in every group"
            )

    def _check_params(self, group: Group) -> None:
        seen = {id(p) for other in self.param_groups for p in other["params"]}
        for position, entry in enumerate(group["params"]):
            named = isinstance(entry, tuple)
            name, parameter = entry if named else (f"parameter {position}", entry)
            validate.check_parameter(
                f"{name} of shape {tuple(parameter.shape)}"
                if isinstance(parameter, Tensor)
                else name,
                parameter,
                group["norm"],
            )
            if id(parameter) in seen:
                raise ValueError(f"{name} of shape {tuple(parameter.shape)} is given twice")
            seen.add(id(parameter))

    # -- the step ------------------------------------------------------------------------------

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Take one step, and return the loss of `closure` if one is given.

        A gradient that is not finite, in any parameter, makes this step change nothing: weights and
        momentum stay bit for bit, and `metrics()["skipped"]` counts it. A parameter without a
        gradient stays as it is and counts zero.

        Raises:
            ValueError: a group was set to a number out of range, or to another `rho` than its
                neighbours; a gradient is sparse. Nothing is changed.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        blocks = self._collect()
        if not blocks:
            return loss
        finite = torch.isfinite(get_total_norm([b.grad for b in blocks], float("inf")))
        if self._constrained:
            self._enter_ball(blocks, finite)

        updates, duals, gaps, corners = [], [], [], []
        for block in blocks:
            d = self._estimate(block, finite)
            lmo, dual = block.norm.lmo_and_dual(d)
            # In 64 bit, where the product of two finite 32-bit numbers is finite.
            dual = block.radius * _scalar(dual)
            duals.append(dual)
            if self._constrained:
                lmo.mul_(block.radius)
                x = block.param.to(d.dtype)
                gaps.append(_scalar(inner(as_working(d), as_working(x))) + dual)
                if self._needs_corner:
                    corners.append(block.norm.norm(x - lmo) / block.radius)
            updates.append(self._keep(block, lmo))

        per_group = self._per_group(blocks, duals)
        size = _total(gaps) if self._constrained else per_group.sum()
        corner = _gather(corners).amax() if corners else None
        factor = self._factor(size, corner)
        # Weights that are NaN already make a gap of NaN: a step would only spread it.
        finite = finite & ~size.isnan()
        factor = torch.where(finite, factor, 0)
        self._move(blocks, updates, factor, finite)
        self._record.add(size, factor, per_group, finite)
        return loss

    def _collect(self) -> list[Block]:
        blocks = []
        for index, group in enumerate(self.param_groups):
            self._check_numbers(group)
            names = group.get("param_names") or [
                f"parameter {i} of group {index}" for i in range(len(group["params"]))
            ]
            for name, p in zip(names, group["params"], strict=True):
                if p.grad is None or p.numel() == 0:
                    continue
                validate.check_gradient(name, p.grad)
                blocks.append(
                    Block(
                        name,
                        p,
                        p.grad,
                        index,
                        group["norm"],
                        group["radius"],
                        group["lr"],
                        group["alpha"],
                    )
                )
        self._check_rho(self.param_groups)
        return blocks

    def _estimate(self, block: Block, finite: Tensor) -> Tensor:
        """Return `d = (1 - alpha) d + alpha g`, written to the state where all is finite."""
        g = block.grad
        if self._maximize:
            g = g.neg_() if self._reuse_grad else -g
        dtype = self._dtype_of_state(block.param)
        if block.alpha == 1:
            return g.to(dtype)
        state = self.state[block.param]
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(block.param, dtype=dtype)
        d = cast(Tensor, state["momentum"])
        reuse = self._reuse_grad and g.dtype == dtype
        new = torch.lerp(d, g.to(dtype), block.alpha, out=g if reuse else None)
        # Not a branch: the host does not know the flag, and the old bits must survive.
        return torch.where(finite.to(d.device), new, d, out=d)

    def _keep(self, block: Block, lmo: Tensor) -> Tensor:
        """Hold the minimiser until the global number is known, in the gradient if allowed."""
        return block.grad.copy_(lmo) if self._reuse_grad else lmo

    def _move(
        self, blocks: list[Block], updates: list[Tensor], factor: Tensor, finite: Tensor
    ) -> None:
        for block, update in zip(blocks, updates, strict=True):
            p = block.param
            dtype = torch.promote_types(p.dtype, update.dtype)
            dtype = torch.float32 if dtype.itemsize < 4 else dtype
            x, update = p.to(dtype), update.to(dtype)
            if self._constrained:
                share = (block.lr * factor).to(p.device, dtype)
                new = torch.lerp(x, update, share, out=update)
            else:
                length = (block.lr * block.radius * factor).to(p.device, dtype)
                new = torch.addcmul(x, update, length, out=update)
            torch.where(finite.to(p.device), new.to(p.dtype), p, out=p)

    def _enter_ball(self, blocks: list[Block], finite: Tensor) -> None:
        """Scale parameters that start outside their ball onto it, once, with a warning.

        The first step of a parameter reads its norm, and so waits for the device; no other does.
        """
        new = [block for block in blocks if block.param not in self._inside]
        if not new:
            return
        ratios = _gather([b.norm.norm(b.param) / b.radius for b in new])
        *ratio_list, all_finite = torch.cat([ratios, finite.to(ratios).reshape(1)]).tolist()
        if not all_finite:
            return
        for block, ratio in zip(new, ratio_list, strict=True):
            if ratio > 1 + _SLACK.get(block.param.dtype, 2e-2):
                block.param.div_(ratio)
                warnings.warn(
                    f"{block.name} of shape {tuple(block.param.shape)} starts outside its ball: "
                    f"norm {ratio * block.radius:.4g}, radius {block.radius:.4g}. It was scaled "
                    "onto the ball; initialise it inside, or give its group a larger radius",
                    stacklevel=5,
                )
            self._inside.add(block.param)

    def _per_group(self, blocks: list[Block], duals: list[Tensor]) -> Tensor:
        sums = []
        for index in range(len(self.param_groups)):
            parts = [
                dual for block, dual in zip(blocks, duals, strict=True) if block.group == index
            ]
            sums.append(_total(parts) if parts else torch.zeros((), dtype=torch.float64))
        return _gather(sums)

    def metrics(self) -> dict[str, Tensor]:
        """Return what the steps so far saw, as tensors that no host has waited for.

        All are 0-d, in float64 where the device has it:

        - `dual_norm`: the global `sum_l r_l ||d_l||_l*` of the last step; in its place `gap`, the
          global `sum_l <d_l, x_l + r_l v_l>`, for a constrained optimizer;
        - `step_factor`: the share in [0, 1] of the longest step that the last step took;
        - `clipped_share`: the share of the steps that the threshold cut to the longest step;
        - `skipped`: how many steps were skipped for a gradient that is not finite;

        and `group_dual_norms`, of shape `(number of groups,)`, splits the dual norm.
        All zero before the first step. They describe this process: none survives a resume.
        """
        return self._record.read("gap" if self._constrained else "dual_norm")

    # -- state ---------------------------------------------------------------------------------

    def _dtype_of_state(self, p: Tensor) -> torch.dtype:
        if self._state_dtype is not None:
            return self._state_dtype
        return torch.float32 if p.dtype.itemsize < 4 else p.dtype

    def state_dict(self) -> dict[str, Any]:
        """Return the state as tensors, numbers and strings; a norm is stored as its repr."""
        return checkpoint.plain(super().state_dict())

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from `state_dict`, bit for bit.

        The momentum keeps the dtype of this optimizer's state, whatever that of the parameters.

        Raises:
            ValueError: it belongs to another optimizer, another norm or other shapes. Nothing is
                loaded.
        """
        groups = checkpoint.check(state_dict, self.param_groups)
        super().load_state_dict({"state": state_dict["state"], "param_groups": groups})
        params = (p for group in self.param_groups for p in group["params"])
        indices = (i for group in state_dict["param_groups"] for i in group["params"])
        for index, p in zip(indices, params, strict=True):
            saved = state_dict["state"].get(index)
            if saved:
                # torch has cast it to the parameter's dtype; take the saved values instead.
                momentum = saved["momentum"].to(p.device, self._dtype_of_state(p), copy=True)
                self.state[p]["momentum"] = momentum

    def __getstate__(self) -> dict[str, Any]:
        state = super().__getstate__()
        return state | {name: getattr(self, name) for name in self._own} | {"_inside": set()}


# How far above its radius a norm may be read, by rounding alone.
_SLACK = {torch.float64: 1e-9, torch.float32: 1e-3}


def _scalar(x: Tensor) -> Tensor:
    """Return figures of a step in float64 if their device has it."""
    return x if x.device.type == "mps" else x.double()


def _gather(scalars: Iterable[Tensor]) -> Tensor:
    """Return 0-d tensors of any device as one vector on the device of the first."""
    scalars = list(scalars)
    device = scalars[0].device
    stacked = torch.stack([s.to(device) for s in scalars])
    return _scalar(stacked)


def _total(scalars: list[Tensor]) -> Tensor:
    return _gather(scalars).sum()
