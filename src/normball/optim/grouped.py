"""The parameter groups of an optimizer: what may be added, and what is checked before a step."""

import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from operator import is_
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from normball import parallel
from normball.norms import Norm
from normball.optim import capture, validate
from normball.optim.buckets import Roster
from normball.optim.geometry import Geometry
from normball.optim.overlap import Overlap
from normball.optim.settings import Group, Settings


@dataclass
class Remembered:
    """Values kept from step to step, and computed again if they are missing.

    They are in a separate object because the compiler of torch 2.9 to 2.11 traces no attribute that
    a step writes on the optimizer itself.
    """

    inside: dict[Tensor, float] = field(default_factory=dict)
    """The parameters in their ball, and the radius at which they were."""
    roster: Roster | None = None
    norms: list[Norm] = field(default_factory=list)
    """Those of the groups, once they were checked."""
    numbers: list[tuple[Any, ...]] = field(default_factory=list)
    """Those of the groups, once they were checked."""
    overlap: Overlap | None = None
    """The updates that were begun during the backward pass."""


class Grouped(Optimizer):
    """An optimizer whose groups have norms and checked numbers."""

    _settings: Settings
    _geometry: Geometry
    _stages: parallel.Stages | None
    _copies: list[Tensor]
    """Parameters that another stage counts."""
    _shapes: set[torch.Size]
    """Those of all parameters that were given."""
    _titles: dict[Tensor, str]
    """The names of the parameters that were checked."""
    _known: Remembered
    _plain_list: bool
    """Whether the optimizer was built from tensors, without groups."""

    @property
    def _figures(self) -> list[str]:
        """The keys of a saved group besides its settings."""
        return []

    def add_param_group(self, param_group: Group) -> None:
        """Add a group: a dict of `params` and the keys that the class documents.

        Other keys are labels, such as `name` or the `initial_lr` of a scheduler: the group keeps
        them, and so does a saved state. If only one of the new group and the others has names of
        parameters, the new group gets names, or loses them, as the others.

        Raises:
            TypeError: a key that resembles one of these keys, or is a setting of other optimizers;
                a norm that is not a `Norm`; a tensor that is not real and dense.
            ValueError: a number out of range, a norm that does not fit a shape, the same parameter
                twice, `rho="auto"` without momentum. Nothing is added.
        """
        if not isinstance(param_group, dict):
            raise TypeError(f"a parameter group must be a dict, not {type(param_group).__name__}")
        group, counted = self._complete(param_group, self.param_groups)
        if self.param_groups:
            named = "param_names" in self.param_groups[0]
            group["params"] = _paired(group["params"], named, len(self.param_groups))
        super().add_param_group(group)
        group = self.param_groups[-1]
        # torch fills in all defaults; `momentum` is there for schedulers, and stands for alpha.
        group.pop("momentum", None)
        self._shapes |= {p.shape for p in group["params"]}
        names = self._names(len(self.param_groups) - 1, group)
        self._titles |= dict(zip(group["params"], names, strict=True))
        if not counted:
            self._copies += group["params"]
        self._mark()

    def add_new(self, groups: Iterable[Group]) -> None:
        """Add the parameters of `groups` that the optimizer does not hold yet.

        `optimizer.add_new(param_groups(model))` is for a model that has grown. New parameters join
        the group that has the same norm and settings, and so its learning rate and its schedule.
        There is a new group only for settings that no group has. Parameters that the optimizer
        holds get the names that `groups` has for them.

        Raises:
            TypeError, ValueError: as in `add_param_group`. Nothing is added.

        Examples:
            >>> from torch import nn
            >>> from normball import ClippedScion, param_groups
            >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.Linear(8, 2))
            >>> optimizer = ClippedScion(param_groups(model))
            >>> model.insert(3, nn.Linear(8, 8))[3] in model
            True
            >>> optimizer.add_new(param_groups(model))
            >>> [name for g in optimizer.param_groups for name in g["param_names"]][-2:]
            ['3.weight', '3.bias']
        """
        groups = list(groups)
        held = set(map(id, self._params()))
        others = list(self.param_groups)
        found: list[tuple[int | None, Group]] = []
        for given in groups:
            fresh = {**given, "params": [e for e in given["params"] if id(_tensor(e)) not in held]}
            if fresh["params"]:
                whole, counted = self._complete(fresh, others)
                others.append({**whole, "params": [*map(_tensor, whole["params"])]})
                found.append((self._home(whole, counted, given), fresh))
        every = (entry for group in groups for entry in group["params"])
        self._titles |= {e[1]: e[0] for e in every if isinstance(e, tuple) and id(e[1]) in held}
        for index, fresh in found:
            if index is None:
                self.add_param_group(fresh)
                continue
            home = self.param_groups[index]
            named = "param_names" in home
            entries = _paired(fresh["params"], named, index)
            if named:
                home["param_names"] = [*home["param_names"], *(name for name, _ in entries)]
            home["params"] = [*home["params"], *map(_tensor, entries)]
        self._check_members()

    def _home(self, new: Group, counted: bool, given: Group) -> int | None:
        """Return the number of a group with the settings, and the labels, of a new one."""
        names = {"norm", "radius", "alpha"} | (set(given) - {"params", "param_names", "counted"})
        for index, group in enumerate(self.param_groups):
            first = next(iter(group["params"]), None)
            counts = all(first is not copy for copy in self._copies)
            if counts is counted and all(_same(new[n], group.get(n)) for n in names):
                return index
        return None

    def _complete(self, given: Group, others: Sequence[Group]) -> tuple[Group, bool]:
        """Return a new group with all its keys, checked, and whether it counts over stages."""
        # `momentum` is there for schedulers alone.
        defaults = {key: value for key, value in self.defaults.items() if key != "momentum"}
        group = self._settings.complete(given, others, defaults)
        counted = validate.check_counted(group.pop("counted", True), self._stages)
        if self._settings.capturable:
            capture.check_group(group)
        self._geometry.check_count(sum(len(g["params"]) for g in [*others, group]))
        return group, counted

    def _mark(self) -> None:
        for group in self.param_groups:
            group.update({name: None for name in self._figures if name not in group})

    def _params(self) -> Iterator[Tensor]:
        return (p for group in self.param_groups for p in group["params"])

    def _warn_of_radii(self) -> None:
        """Warn if the optimizer was built from a list of layers, without groups."""
        if self._plain_list and sum(p.ndim > 1 for p in self._params()) > 1:
            warnings.warn(
                "every layer has the norm of its shape and the radius 1, because there are no "
                "groups: param_groups(model) in place of model.parameters() gives every layer its "
                "own; pass radius=1.0 if this is what you want",
                stacklevel=4,
            )

    # -- before a step -------------------------------------------------------------------------

    def _check_groups(self) -> None:
        """Check what was put into the groups since the last step: numbers and norms."""
        groups, known = self.param_groups, self._known
        numbers = [self._settings.numbers_of(group) for group in groups]
        compiled = torch.compiler.is_compiling()
        same = (
            not compiled
            and len(numbers) == len(known.numbers)
            and all(
                all(map(is_, new, old)) for new, old in zip(numbers, known.numbers, strict=True)
            )
        )
        if not same:
            for group in groups:
                self._settings.check_numbers(group)
            known.numbers = [self._settings.numbers_of(group) for group in groups]
        self._settings.check_common(groups)
        norms = [group["norm"] for group in groups]
        if len(norms) != len(known.norms) or not all(map(is_, norms, known.norms)):
            self._check_replaced()
            self._check_members()
            for i, group in enumerate(groups):
                self._geometry.check_norm(validate.check_norm(group["norm"]))
                for name, p in zip(self._names(i, group), group["params"], strict=True):
                    validate.check_shape(name, p, group["norm"])
            known.norms = norms

    def _check_replaced(self) -> None:
        validate.check_replaced(self._params(), self._shapes)

    def _check_members(self) -> None:
        """Check parameters that were put into a list since the last step, and name them.

        Raises:
            TypeError, ValueError: as in `add_param_group`. Nothing is changed.
        """
        titles: dict[Tensor, str] = {}
        for i, group in enumerate(self.param_groups):
            names = self._names(i, group)
            for name, p in zip(names, group["params"], strict=True):
                if p not in self._titles:
                    validate.check_parameter(name, p, group["norm"])
                if p in titles:
                    raise ValueError(f"{name} is in the groups twice: also as {titles[p]}")
                titles[p] = name
        # In place: a compiler of torch 2.11 sets no attribute of an optimizer.
        self._titles.clear()
        self._titles.update(titles)
        self._mend_names()

    def _check_stages(self) -> None:
        """Raise ValueError where the stages of a pipeline do not fit together."""
        if self._stages is None:
            return
        copies = set(map(id, self._copies))
        self._stages.check_members(
            [
                (name if "param_names" in group else "", p, id(p) not in copies)
                for i, group in enumerate(self.param_groups)
                for name, p in zip(self._names(i, group), group["params"], strict=True)
            ]
        )

    def _mend_names(self) -> None:
        """Give groups whose lists have changed one name for each of their parameters."""
        for i, group in enumerate(self.param_groups):
            if "param_names" in group:
                group["param_names"] = self._names(i, group)

    def _names(self, index: int, group: Group) -> list[str]:
        """Return the names of a group's parameters, also if its list has changed.

        A parameter that replaces another one, as wrappers do, takes over its name.
        """
        params = group["params"]
        unknown = [f"parameter {i} of group {index}" for i in range(len(params))]
        names = group.get("param_names")
        if names is None:
            return unknown
        found = [self._titles.get(p) for p in params]
        taken = set(found)
        if len(names) == len(params):
            unknown = [
                new if old in taken else old for old, new in zip(names, unknown, strict=True)
            ]
        return [new or old for new, old in zip(found, unknown, strict=True)]


def _same(a: Any, b: Any) -> bool:
    return a is b or (not isinstance(a, Tensor) and not isinstance(b, Tensor) and bool(a == b))


def _tensor(entry: Any) -> Any:
    return entry[1] if isinstance(entry, tuple) else entry


def _paired(entries: Iterable[Any], named: bool, index: int) -> list[Any]:
    """Return the entries of a group as pairs with names, or as tensors."""
    if not named:
        return [_tensor(entry) for entry in entries]
    return [
        entry if isinstance(entry, tuple) else (f"parameter {i} of group {index}", entry)
        for i, entry in enumerate(entries)
    ]
