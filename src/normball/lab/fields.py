"""Records read from JSON, each field checked against its type."""

import math
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

_LARGEST = 2**63
_hints = cache(get_type_hints)


def read(kind: Any, value: Any, name: str = "", null: float | None = None) -> Any:
    """A value of a type from what JSON has for it.

    Args:
        kind: a dataclass, ``bool``, ``str``, ``int`` (from 0 to below 2^63), ``float`` (finite;
            also a whole number), or lists, tuples and dictionaries of them, or any of them or None.
        value: from JSON.
        name: of the field, for the message.
        null: the number that a null stands for; a dataclass may have one of its own as ``NULL``.

    Raises:
        ValueError: if the value is of another type, or a field is missing or unknown.
    """
    if is_dataclass(kind):
        return _read_fields(kind, value)
    origin, inside = get_origin(kind), get_args(kind)
    if origin is UnionType:
        return None if value is None else read(inside[0], value, name, null)
    if origin is list and isinstance(value, list):
        return [read(inside[0], entry, name, null) for entry in value]
    if origin is tuple and isinstance(value, list) and len(value) == len(inside):
        return tuple(read(*pair, name, null) for pair in zip(inside, value, strict=True))
    if origin is dict and isinstance(value, dict):
        return {key: read(inside[1], entry, name, null) for key, entry in value.items()}
    if kind is float and value is None and null is not None:
        return null
    if kind is float and type(value) is int and abs(value) < _LARGEST:
        return value
    right = type(value) is kind and (
        math.isfinite(value) if kind is float else kind is not int or 0 <= value < _LARGEST
    )
    if not right:
        raise ValueError(f"{name} is {value!r:.40}")
    return value


def _read_fields(kind: Any, values: Any) -> Any:
    if not isinstance(values, dict):
        raise ValueError(f"{values!r:.40} has no fields")
    needed = {f.name for f in fields(kind) if f.default is f.default_factory is MISSING}
    known = {f.name for f in fields(kind)}
    if wrong := sorted((values.keys() - known) | (needed - values.keys())):
        raise ValueError(f"it lacks or does not know {', '.join(wrong)}")
    null = getattr(kind, "NULL", None)
    hints = _hints(kind)
    return kind(**{name: read(hints[name], value, name, null) for name, value in values.items()})
