"""The user's settings for parameters, by a pattern of names or a module type."""

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from numbers import Real
from typing import Any

from torch import nn

from normball.groups.slots import Slot
from normball.groups.storage import ROLES
from normball.norms import Norm

Key = str | type[nn.Module]
Value = str | Mapping[str, Any]

_KEYS = ("norm", "radius", "lr", "alpha")


@dataclass(frozen=True)
class Override:
    """One entry of `overrides`, validated."""

    key: Key
    role: str | None
    norm: Norm | None = None
    radius: float | None = None
    extra: tuple[tuple[str, float], ...] = ()
    """`lr` and `alpha`, which the plan passes to the optimizer."""

    @property
    def label(self) -> str:
        """The entry as the printed plan shows it."""
        extra = "".join(f", {name}={value:g}" for name, value in self.extra)
        return f"override {_show(self.key)}{extra}"

    def matches(self, slot: Slot) -> bool:
        """Tell whether the key matches the place."""
        if isinstance(self.key, str):
            return fnmatchcase(slot.name, self.key)
        return isinstance(slot.module, self.key)


def parse(overrides: Mapping[Key, Value] | None, slots: Sequence[Slot]) -> list[Override]:
    """Return the entries in order.

    Raises:
        TypeError: `overrides`, a key, a value or a norm has a type that is not documented.
        ValueError: an unknown role or key, a number that is not positive and finite, an entry that
            matches no parameter.
    """
    if overrides is None:
        return []
    if not isinstance(overrides, Mapping):
        raise TypeError(
            f"overrides must map names or module types to settings, got {type(overrides).__name__}"
        )
    entries = [_entry(key, value) for key, value in overrides.items()]
    for entry in entries:
        if not any(map(entry.matches, slots)):
            raise ValueError(_no_match(entry, slots))
    return entries


def positive(name: str, value: Any) -> float:
    """Return `value` as a float.

    Raises:
        TypeError: it is not a number.
        ValueError: it is not positive and finite.
    """
    if not isinstance(value, Real):
        raise TypeError(f"{name}={value!r} must be a number")
    number = float(value)
    if not 0 < number < float("inf"):
        raise ValueError(f"{name}={value!r} must be positive and finite")
    return number


def _entry(key: Any, value: Any) -> Override:
    if not isinstance(key, str) and not (isinstance(key, type) and issubclass(key, nn.Module)):
        raise TypeError(
            f"overrides has the key {key!r}: give a pattern of parameter names, such as "
            "'*.qkv.weight', or a module type, such as nn.Conv2d"
        )
    if isinstance(value, str):
        _check_known("the role", value, ROLES, key)
        return Override(key, value)
    if not isinstance(value, Mapping) or not value:
        raise TypeError(
            f"overrides[{_show(key)}]={value!r} must be a role or a dict such as "
            "{'norm': Spectral(), 'radius': 5.0}"
        )
    for name in value:
        _check_known("the setting", name, _KEYS, key)
    norm = value.get("norm")
    if "norm" in value and not isinstance(norm, Norm):
        raise TypeError(
            f"overrides[{_show(key)}] has norm={norm!r}: give an object, such as Spectral()"
        )
    numbers = {
        name: positive(f"overrides[{_show(key)}][{name!r}]", value[name])
        for name in _KEYS[1:]
        if name in value
    }
    radius = numbers.pop("radius", None)
    return Override(key, None, norm, radius, tuple(numbers.items()))


def _check_known(what: str, name: Any, known: Sequence[str], key: Key) -> None:
    if name not in known:
        near = difflib.get_close_matches(str(name), known, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(
            f"overrides[{_show(key)}] has {what} {name!r}, known are {', '.join(known)}{hint}"
        )


def _no_match(entry: Override, slots: Sequence[Slot]) -> str:
    if isinstance(entry.key, str):
        name, what = entry.key, "matches no parameter of the model"
        known = [slot.name for slot in slots]
    else:
        name, what = entry.key.__name__, "matches no module that holds parameters itself"
        known = [type(slot.module).__name__ for slot in slots]
    near = difflib.get_close_matches(name, dict.fromkeys(known), n=3, cutoff=0.4)
    hint = f"; near it are {', '.join(near)}" if near else ""
    return f"overrides[{_show(entry.key)}] {what}{hint}"


def _show(key: Key) -> str:
    return repr(key) if isinstance(key, str) else key.__name__
