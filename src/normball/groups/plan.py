"""What `param_groups` returns: groups for an optimizer, and the table that explains them."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch

from normball.norms import Norm

HEADER = ("name", "shape", "role", "norm", "radius", "rule")


@dataclasses.dataclass(frozen=True)
class Row:
    """The place of one parameter in a plan."""

    name: str
    """As in `model.named_parameters()`, without the prefixes of wrappers."""
    shape: torch.Size
    role: str
    """`input`, `hidden`, `output`, `embedding`, `bias`, `vector`, or `frozen` for one left out."""
    norm: Norm | None
    """None where frozen."""
    radius: float | None
    """None where frozen."""
    rule: str
    """What placed it there."""

    def cells(self) -> tuple[str, ...]:
        """Return the row as the printed table shows it; a norm without its defaults."""
        norm = "-" if self.norm is None else brief(self.norm)
        radius = "-" if self.radius is None else f"{self.radius:g}"
        return self.name, str(tuple(self.shape)), self.role, norm, radius, self.rule


class Plan(list[dict[str, Any]]):
    """The parameter groups of a model, as an optimizer takes them. `print(plan)` shows a table.

    Each group is a dict of `params`, a list of pairs `(name, parameter)`, `norm` and `radius`; keys
    of the optimizer, such as `lr`, may be added.
    """

    def __init__(self, groups: Sequence[dict[str, Any]], rows: Sequence[Row]) -> None:
        super().__init__(groups)
        self.rows = tuple(rows)
        """One `Row` for each parameter of the model, in its order."""

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
