"""Whether values that were read from JSON fit the fields of a record."""

import math
from typing import Any, get_args, get_origin

_LARGEST = 2**63


def fits(value: object, kind: Any, *, null: bool = False) -> bool:
    """Whether a value is of a field's type.

    Args:
        value: from JSON.
        kind: ``bool``, ``str``, ``int`` (from 0 to below 2^63), ``float`` (finite; also a whole
            number), a list of one of them, or any of them or None.
        null: whether a null may stand for a number that was not finite.
    """
    if get_origin(kind) is list:
        (entry,) = get_args(kind)
        return isinstance(value, list) and all(fits(v, entry, null=null) for v in value)
    if kinds := get_args(kind):
        return any(fits(value, one, null=null) for one in kinds)
    if kind is float and value is None:
        return null
    if isinstance(value, float):
        return kind is float and math.isfinite(value)
    if type(value) is int:
        return (kind is float and abs(value) < _LARGEST) or (kind is int and 0 <= value < _LARGEST)
    return type(value) is kind
