"""Seeded damage to bytes and to nested values."""

import copy
import math
import random
from typing import Any

ODD = [
    None,
    True,
    False,
    -1,
    0,
    1,
    2**70,
    0.5,
    math.nan,
    math.inf,
    "",
    "x",
    "2^-5",
    [],
    {},
    [1],
    {"a": 1},
]


def bytes_of(content: bytes, chance: random.Random) -> bytes:
    """Flip, cut, repeat, insert or drop a few bytes."""
    made = bytearray(content)
    for _ in range(chance.randint(1, 4)):
        if not made:
            break
        at = chance.randrange(len(made))
        kind = chance.randrange(6)
        if kind == 0:
            made[at] = chance.randrange(256)
        elif kind == 1:
            made[at] ^= 1 << chance.randrange(8)
        elif kind == 2:
            del made[at:]
        elif kind == 3:
            del made[at : at + chance.randint(1, 64)]
        elif kind == 4:
            made[at:at] = bytes(chance.randrange(256) for _ in range(chance.randint(1, 16)))
        else:
            made[at:at] = made[at : at + chance.randint(1, 64)]
    return bytes(made)


def value_of(value: Any, chance: random.Random) -> Any:
    """A copy with one entry, anywhere inside, dropped, doubled or made something odd."""
    made = copy.deepcopy(value)
    places = list(_places(made))
    if not places:
        return chance.choice(ODD)
    holder, key = chance.choice(places)
    kind = chance.randrange(4)
    if kind == 0 and isinstance(holder, dict):
        del holder[key]
    elif kind == 1 and isinstance(holder, dict):
        holder[chance.choice(["odd", 7, "params", "lr"])] = holder[key]
    else:
        holder[key] = chance.choice(ODD)
    return made


def _places(value: Any):
    if isinstance(value, dict):
        for key in value:
            yield value, key
            yield from _places(value[key])
    elif isinstance(value, list):
        for index, entry in enumerate(value):
            yield value, index
            yield from _places(entry)
