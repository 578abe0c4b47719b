"""The parameter groups of an optimizer: which keys they have, and which values."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from normball.optim import validate

Group = dict[str, Any]


@dataclass(frozen=True)
class Settings:
    """What the groups of one optimizer may hold.

    `keys` are those a user may give besides `params`; `numbers` those that hold numbers. Those in
    `common` must be equal in all groups. `step` names the step size in messages, which is always
    stored as `lr`, where schedulers look for it.
    """

    keys: tuple[str, ...]
    numbers: tuple[str, ...]
    common: tuple[str, ...] = ()
    step: str = "lr"
    constrained: bool = False

    def longest(self, group: Mapping[str, Any]) -> float:
        """Return the longest step of a group: `lr`, or `gamma rho` in the paper's parameters."""
        lr = float(group["lr"])
        return lr * float(group["rho"]) if self.step == "gamma" else lr

    def complete(self, group: Group, others: Sequence[Group], defaults: Mapping[str, Any]) -> Group:
        """Return a new group, filled up and checked against those that are there.

        Raises:
            TypeError: an unknown key, a norm that is none, a tensor that is not real and dense.
            ValueError: a number out of range, a norm that does not fit a shape, a parameter twice.
        """
        validate.check_keys(group, {"params", *self.keys})
        inherited = {name: others[0][name] for name in self.common} if others else {}
        group = {**defaults, **inherited, **group}
        params = group["params"]
        group["params"] = [params] if isinstance(params, Tensor) else list(params)
        group["norm"] = validate.check_norm(group["norm"])
        self.check_numbers(group)
        self.check_common([*others, group])
        self._check_params(group, others)
        return group

    def check_numbers(self, group: Group) -> None:
        """Raise where a number of a group is out of range; store them as Python floats."""
        for name in self.numbers:
            shown = self.step if name == "lr" else name
            high = 1.0 if name == "alpha" else float("inf")
            group[name] = validate.check_number(
                shown, group[name], low=0, high=high, open_low=name != "lr"
            )
        longest = self.longest(group)
        if self.constrained and longest > 1:
            product = "gamma * rho" if self.step == "gamma" else "lr"
            raise ValueError(
                f"{product}={longest:.6g} must lie in [0, 1]: in a constrained method it is the "
                "largest share of the way to the edge of the ball"
            )

    def check_common(self, groups: Sequence[Group]) -> None:
        """Raise ValueError where groups differ in what must be one value."""
        for name in self.common:
            values = {group[name] for group in groups}
            if len(values) > 1:
                shown = self.step if name == "lr" else name
                raise ValueError(
                    f"{shown} is one number over all groups, but they hold {sorted(values)}: set "
                    "the same value in every group"
                )

    @staticmethod
    def _check_params(group: Group, others: Sequence[Group]) -> None:
        seen = {id(p) for other in others for p in other["params"]}
        for position, entry in enumerate(group["params"]):
            name, p = entry if isinstance(entry, tuple) else (f"parameter {position}", entry)
            if isinstance(p, Tensor):
                name = f"{name} of shape {tuple(p.shape)}"
            validate.check_parameter(name, p, group["norm"])
            if id(p) in seen:
                raise ValueError(f"{name} is given twice")
            seen.add(id(p))
