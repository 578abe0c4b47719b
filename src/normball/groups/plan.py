"""What `param_groups` returns: groups for an optimizer, and the table that explains them."""

import dataclasses
import weakref
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from normball.groups.slots import Slot, slots_of
from normball.norms import Members, Norm

HEADER = ("name", "shape", "role", "norm", "radius", "rule")


@dataclasses.dataclass(frozen=True)
class Row:
    """The place of one parameter in a plan."""

    name: str
    """As in `model.named_parameters()`, without the prefixes of wrappers."""
    shape: torch.Size
    role: str
    """`input`, `hidden`, `output`, `embedding`, `bias`, `vector`; or `frozen` for a parameter that
    is frozen and that no rule places, or whose dtype cannot be trained: it is in no group."""
    norm: Norm | None
    """None in the role `frozen`."""
    radius: float | None
    """None in the role `frozen`."""
    rule: str
    """The rule or override that gave it its role."""
    others: tuple[str, ...] = ()
    """Its other names, where it is shared."""

    def cells(self) -> tuple[str, ...]:
        """Return the row as the printed table shows it; a norm without its defaults."""
        norm = "-" if self.norm is None else brief(self.norm)
        radius = "-" if self.radius is None else f"{self.radius:g}"
        return self.name, str(tuple(self.shape)), self.role, norm, radius, self.rule


class Plan(list[dict[str, Any]]):
    """The parameter groups of a model, as an optimizer takes them. `print(plan)` shows a table.

    Each group is a dict of `params`, a list of pairs `(name, parameter)`, `norm` and `radius`; keys
    of the optimizer, such as `lr`, may be added.

    Examples:
        >>> import torch
        >>> from normball import param_groups
        >>> plan = param_groups(torch.nn.Linear(4, 2))
        >>> [(row.name, row.role) for row in plan.rows]
        [('weight', 'output'), ('bias', 'bias')]
    """

    def __init__(
        self, groups: Sequence[dict[str, Any]], rows: Sequence[Row], model: nn.Module | None = None
    ) -> None:
        super().__init__(groups)
        self.rows = tuple(rows)
        """One `Row` for each parameter of the model, in its order."""
        self.model = None if model is None else weakref.ref(model)
        """A weak reference to the model; None in a copy of the plan."""

    def __getstate__(self) -> dict[str, Any]:
        return {"rows": self.rows, "model": None}

    def of(self, part: nn.Module) -> "Plan":
        """Return the groups of a part of the model, such as a stage of a pipeline.

        The roles are those in the whole model, because the first or last layer of a part need not
        be that of the model. If two parts hold copies of one parameter (a tied head), both have
        its first name in the groups, and the copy that has its second name in its part has
        `counted=False`, so that the parameter counts once in the dual norm of all parts.

        A part may be frozen as a whole: its rank takes part in the steps of the others.

        Args:
            part: a module whose parameters have the same names and shapes as in the model.

        Raises:
            ValueError: a parameter has another name or shape, or there is none for an optimizer.

        Examples:
            >>> from torch import nn
            >>> from normball import param_groups
            >>> model = nn.Sequential(nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 4), nn.Linear(4, 2))
            >>> plan = param_groups(model)
            >>> middle = nn.ModuleDict({"2": model[2]})  # what one rank holds
            >>> print(plan.of(middle))
            name      shape   role    norm        radius  rule
            2.weight  (4, 4)  hidden  Spectral()  5       linear
            2.bias    (4,)    bias    RMS()       0.25    bias
        """
        rows = {name: row for row in self.rows for name in (row.name, *row.others)}
        places = {name: i for i, group in enumerate(self) for name, _ in group["params"]}
        shared: dict[int, list[Slot]] = {}
        for slot in slots_of(part):
            shared.setdefault(id(slot.parameter), []).append(slot)
        found: dict[tuple[int, bool], dict[str, Any]] = {}
        chosen = []
        for slots in shared.values():
            first = slots[0]
            row = rows.get(first.name)
            if row is None or row.shape != first.shape:
                known = "unknown" if row is None else f"of shape {tuple(row.shape)}"
                raise ValueError(
                    f"{first.name} of shape {tuple(first.shape)} is {known} in the plan of the "
                    "whole model: a part keeps the names that its parameters have there"
                )
            chosen.append(row)
            if row.norm is None:
                continue
            key = places[row.name], row.name in [slot.name for slot in slots]
            if key not in found:
                settings = {k: v for k, v in self[key[0]].items() if k != "params"}
                found[key] = {"params": [], **settings, **({} if key[1] else {"counted": False})}
            found[key]["params"].append((row.name, first.parameter))
        if not found:
            raise ValueError(
                "this part has no parameter for an optimizer. Its rank needs one for stages= all "
                "the same: give it [torch.nn.Parameter(torch.zeros(1), requires_grad=False)]"
            )
        return Plan([found[key] for key in sorted(found)], chosen, part)

    def stacked(self, params: Mapping[str, torch.Tensor]) -> "Plan":
        """Return the groups of an ensemble whose members are models like that of this plan.

        Every member has balls of its own, so with `Scion` members do not affect each other. The
        threshold of `ClippedScion` is one number over all of them.

        Args:
            params: names, and parameters whose first dimension counts the members, as
                `torch.func.stack_module_state` makes them.

        Raises:
            ValueError: a name is not in the plan, or a member has another shape than its model.

        Examples:
            >>> import torch
            >>> from normball import param_groups
            >>> models = [torch.nn.Linear(4, 2) for _ in range(3)]
            >>> params, _ = torch.func.stack_module_state(models)
            >>> print(param_groups(models[0]).stacked(params))
            name    shape      role    norm             radius  rule
            weight  (3, 2, 4)  output  Members(Sign())  32      last layer, linear
            bias    (3, 2)     bias    Members(RMS())   0.25    bias
        """
        rows = {row.name: row for row in self.rows}
        homes = {name: group for group in self for name, _ in group["params"]}
        made: dict[int, dict[str, Any]] = {}
        found = []
        for name, parameter in params.items():
            row, home = rows.get(name), homes.get(name)
            if row is None or home is None or row.norm is None or row.shape != parameter.shape[1:]:
                known = "unknown or frozen" if home is None or row is None else tuple(row.shape)
                raise ValueError(
                    f"{name} of shape {tuple(parameter.shape)}: the plan has {known}, where the "
                    "shape without the first dimension is expected"
                )
            norm = Members(row.norm)
            found.append(dataclasses.replace(row, shape=parameter.shape, norm=norm))
            group = made.setdefault(id(home), {**home, "params": [], "norm": norm})
            group["params"].append((name, parameter))
        return Plan(list(made.values()), found)

    def __str__(self) -> str:
        return aligned([HEADER, *(row.cells() for row in self.rows)])

    __repr__ = __str__


def aligned(table: Sequence[Sequence[str]]) -> str:
    """Return rows of cells, all of one length, as lines of text in aligned columns."""
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = ("  ".join(map(str.ljust, cells, widths)).rstrip() for cells in table)
    return "\n".join(lines)


def brief(norm: Norm) -> str:
    """Return the expression that makes `norm`, without the arguments left at their defaults."""
    if not dataclasses.is_dataclass(norm):
        return repr(norm)
    arguments = []
    for field in dataclasses.fields(norm):
        value = getattr(norm, field.name)
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            arguments.append(brief(value) if isinstance(value, Norm) else repr(value))
            continue
        factory = field.default_factory
        default = field.default if factory is dataclasses.MISSING else factory()
        if value != default:
            arguments.append(f"{field.name}={value!r}")
    return f"{type(norm).__name__}({', '.join(arguments)})"
