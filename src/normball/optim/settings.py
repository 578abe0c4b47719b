"""The parameter groups of an optimizer: which keys they have, and which values."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.parameter import is_lazy

from normball import parallel
from normball._numeric import has_value
from normball._scalar import Flag, every, finite, known
from normball.norms import ByShape, Norm
from normball.optim import keys, validate

Group = dict[str, Any]

# Keys that groups of a saved state have besides their settings. An optimizer that saves some of
# them has these keys in its own groups too, without a value: torch.distributed.checkpoint reads no
# other key of a flat state.
FIGURES = (CURVATURE, AVERAGE_STEPS, AVERAGE_OUT, ENTERED, ROUNDINGS) = (
    "curvature", "average_steps", "average_in_weights", "entered_radius", "rounded_steps",
)  # fmt: skip
# The numbers that may be 0-d tensors; a compiled or captured step reads them in every run.
_ON_DEVICE = ("lr", "rho")
# Schedulers multiply in every step: they may miss an end of 0 or 1 by this many roundings.
_ROUNDINGS = 2**10
_SLACK = _ROUNDINGS * torch.finfo(torch.float64).eps


@dataclass(frozen=True)
class Settings:
    """The keys and values that the groups of one optimizer may have.

    `keys` are those that a user may give besides `params`; `numbers` are those that hold numbers.
    Those in `common` must be equal in all groups. `step` is the name of the step size in messages;
    it is always stored as `lr`, where schedulers expect it. With `capturable`, numbers that a
    schedule changes are stored as tensors on the parameters' device.
    """

    keys: tuple[str, ...]
    numbers: tuple[str, ...]
    common: tuple[str, ...] = ()
    step: str = "lr"
    constrained: bool = False
    capturable: bool = False

    def with_number(self, name: str) -> "Settings":
        """Return the same with one more number, equal in all groups."""
        return replace(
            self,
            keys=(*self.keys, name) if self.keys else (),
            numbers=(*self.numbers, name),
            common=(*self.common, name),
        )

    def numbers_of(self, group: Mapping[str, Any]) -> tuple[Any, ...]:
        """Return what `check_numbers` depends on: numbers, and of good tensors the dtype alone."""
        values = [*map(group.get, self.numbers), group.get("momentum")]
        return tuple([v.dtype if isinstance(v, Tensor) and v.numel() == 1 else v for v in values])

    def longest(self, group: Mapping[str, Any]) -> float | Tensor:
        """Return the longest step of a group: `lr`, or `gamma rho` in the paper's parameters."""
        longest = self._product(group)
        if isinstance(longest, Tensor):
            return longest.clamp(0, 1 if self.constrained else None)
        return longest

    def _product(self, group: Mapping[str, Any]) -> float | Tensor:
        lr: float | Tensor = _flat(group["lr"])
        rho: float | Tensor = _flat(group["rho"]) if self.step == "gamma" else 1.0
        product: float | Tensor = lr * rho if self.step == "gamma" else lr
        return product

    def complete(self, group: Group, others: Sequence[Group], defaults: Mapping[str, Any]) -> Group:
        """Return a new group with all defaults, checked against the other groups.

        Raises:
            TypeError: an unknown key, a norm that is not a `Norm`, a tensor that is not real and
                dense.
            ValueError: a number out of range, a norm that does not fit a shape, the same parameter
                twice.
        """
        group = {k: v for k, v in _with_names(group).items() if k not in FIGURES}
        keys.check(group, {"params", *self.keys}, "rho" in self.numbers)
        inherited = {name: others[0][name] for name in self.common} if others else {}
        group = {**defaults, **inherited, **group}
        params = group["params"]
        group["params"] = [params] if isinstance(params, Tensor) else list(params)
        group["norm"] = validate.check_norm(group["norm"])
        self.check_values(group, inherited)
        self._check_params(group, others)
        if self.capturable:
            self._to_tensors(group, others)
        self.check_common([*others, group])
        return group

    def check_values(self, group: Group, known: Mapping[str, Any] | None = None) -> None:
        """Check numbers, also tensors that are not in `known`; waits for their device."""
        self.check_numbers(group)
        tensors = {k: v for k, v in group.items() if isinstance(v, Tensor) and k in _ON_DEVICE}
        read = {
            k: float(v)
            for k, v in tensors.items()
            if v is not (known or {}).get(k) and has_value(v)
        }
        self.check_numbers(group | read)

    def check_numbers(self, group: Group) -> None:
        """Raise where a number of a group is out of range; store them as Python floats.

        Of a tensor only dtype and shape are checked here; `sound` checks its value. If a scheduler
        has put `momentum` into the group, as `OneCycleLR` does, `alpha` becomes `1 - momentum`.
        """
        if "momentum" in group:
            momentum = validate.check_number("momentum", group["momentum"], low=0, high=1)
            group["alpha"] = 1 - momentum
        for name in self.numbers:
            shown = self.step if name == "lr" else name
            if isinstance(group[name], Tensor) and name in _ON_DEVICE:
                validate.check_scalar(shown, group[name])
                continue
            high = 1.0 if name in ("alpha", "average") else float("inf")
            group[name] = validate.check_number(
                shown, group[name], low=0, high=high, open_low=name != "lr", slack=_SLACK
            )
        longest = self._product(group)
        if self.constrained and not isinstance(longest, Tensor) and longest > 1 + _SLACK:
            product = "gamma * rho" if self.step == "gamma" else "lr"
            raise ValueError(
                f"{product}={longest:.6g} must lie in [0, 1]: in a constrained method it is the "
                "largest share of the way to the edge of the ball"
            )

    def check_common(self, groups: Sequence[Group]) -> None:
        """Raise ValueError if groups differ in a value, or a tensor, that they must share."""
        for name in self.common:
            values = [group[name] for group in groups]
            shown = self.step if name == "lr" else name
            if any(isinstance(value, Tensor) for value in values):
                if any(value is not values[0] for value in values):
                    raise ValueError(
                        f"{shown} is one number over all groups, but they hold several tensors, or "
                        "a tensor and a number: put the same tensor in every group"
                    )
            elif any(value != values[0] for value in values):
                raise ValueError(
                    f"{shown} is one number over all groups, but they hold {sorted(set(values))}: "
                    "set the same value in every group"
                )

    def sound(self, groups: Sequence[Group]) -> Flag:
        """Tell whether the numbers in tensors are in range.

        Nothing waits for their device. A step does nothing where this is false.
        """
        checks: list[Flag] = []
        seen: list[tuple[Any, Any]] = []
        for group in groups:
            lr, rho = (v if isinstance(v, Tensor) else None for v in map(group.get, _ON_DEVICE))
            if lr is None and rho is None:
                continue
            # Each tensor once, in however many groups it is.
            if any(lr is old and rho is other for old, other in seen):
                continue
            seen.append((lr, rho))
            longest = self._product(group) if self.constrained else None
            if lr is not None:
                slack, value = _ROUNDINGS * torch.finfo(lr.dtype).eps, known(_flat(lr))
                checks.append((value >= -slack) & finite(value))
            if rho is not None:
                value = known(_flat(rho))
                checks.append((value > 0) & finite(value))
            if isinstance(longest, Tensor):
                slack = _ROUNDINGS * torch.finfo(longest.dtype).eps
                checks.append(known(longest) <= 1 + slack)
        return every(checks)

    def _to_tensors(self, group: Group, others: Sequence[Group]) -> None:
        """Store the numbers that a schedule changes as tensors on the parameters' device."""
        entry = next(iter(group["params"]), None)
        p = entry[1] if isinstance(entry, tuple) else entry
        if p is None:
            raise ValueError("capturable=True needs parameters in every group, got an empty one")
        for name in _ON_DEVICE:
            value = group.get(name)
            if isinstance(value, Tensor) and value.device != p.device:
                shown = self.step if name == "lr" else name
                raise ValueError(
                    f"{shown} is a tensor on {value.device}, but a captured step reads it on "
                    f"{p.device}, with the parameters: create it there"
                )
            if isinstance(value, float):
                common = others[0][name] if others and name in self.common else None
                dtype = torch.float32 if p.device.type == "mps" else torch.float64
                new = torch.tensor(value, dtype=dtype, device=p.device)
                group[name] = common if common is not None and bool(common == new) else new

    @staticmethod
    def _check_params(group: Group, others: Sequence[Group]) -> None:
        known = [p for other in others for p in other["params"]]
        seen = {id(p) for p in known}
        places = {_place(p) for p in known}
        for position, entry in enumerate(group["params"]):
            name, p = entry if isinstance(entry, tuple) else (f"parameter {position}", entry)
            if isinstance(p, Tensor) and not is_lazy(p):
                name = f"{name} of shape {tuple(p.shape)}"
            validate.check_parameter(name, p, group["norm"])
            if id(p) in seen:
                raise ValueError(f"{name} is given twice")
            place = _place(p)
            if place is not None and place in places:
                raise ValueError(
                    f"{name} lies in the memory of another parameter, so both would be moved: to "
                    "tie layers, assign the parameter itself (head.weight = table.weight), without "
                    "a new nn.Parameter around it"
                )
            seen.add(id(p))
            places.add(place)


def layers(norm: Norm | None, radius: float | None) -> Group:
    """Return the defaults of groups whose layers have a ball each."""
    return {
        "norm": ByShape() if norm is None else norm,
        "radius": 1.0 if radius is None else radius,
    }


def _flat(value: Any) -> Any:
    """Return a number, or a tensor of one entry as a 0-d tensor in the same memory."""
    return value.reshape(()) if isinstance(value, Tensor) and value.ndim else value


def _with_names(group: Group) -> Group:
    """Return a group as a user gives it, made from one as an optimizer keeps it."""
    names = group.get("param_names")
    if names is None:
        return group
    params = list(group.get("params", ()))
    if len(names) != len(params) or any(isinstance(p, tuple) for p in params):
        raise ValueError(f"param_names={names!r} must be one name for each of the params")
    rest = {key: value for key, value in group.items() if key != "param_names"}
    return {**rest, "params": list(zip(names, params, strict=True))}


def _place(p: Tensor) -> tuple[int, int] | None:
    """Return a key for where the values of a parameter start, also if they have no address."""
    if parallel.is_sharded(p) or not p.numel():
        return None
    return p.untyped_storage()._cdata, int(p.storage_offset())
