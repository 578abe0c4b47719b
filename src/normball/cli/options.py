"""Text from the command line turned into values, or refused by name."""

import re
from collections.abc import Callable
from typing import TypeVar

from normball.lab.config import read_step
from normball.lab.errors import LabError

Value = TypeVar("Value")
_TIME = re.compile(r"(\d{1,6}(?:\.\d{1,6})?)\s*([smh])")
_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0}


def parse_step(option: str, text: str) -> float:
    """A step size, written as a number or as a power: ``0.03125`` or ``2^-5``.

    Args:
        option: the option's name, for the message.
        text: what the user wrote.

    Raises:
        LabError: if it is no positive number.
    """
    value = read_step(text)
    if value is None:
        raise LabError(f"{option} must be a positive number such as 0.03125 or 2^-5, got {text!r}.")
    return value


def parse_number(option: str, text: str) -> float:
    """A number. Its range is for others to judge.

    Args:
        option: the option's name, for the message.
        text: what the user wrote.

    Raises:
        LabError: if it is no number.
    """
    try:
        return float(text)
    except ValueError:
        raise LabError(f"{option} must be a number, got {text!r}.") from None


def parse_threshold(option: str, text: str) -> float:
    """A clipping threshold. Its range is for others to judge.

    Args:
        option: the option's name, for the message.
        text: what the user wrote.

    Raises:
        LabError: if it is no number; of ``auto`` the message says which optimizer measures it.
    """
    if text == "auto":
        raise LabError(
            f"{option} must be a number, got 'auto': leave it out, and take the optimizer "
            "clipped-scion-auto, which measures it."
        )
    return parse_number(option, text)


def parse_whole(option: str, text: str) -> int:
    """A whole number. Its range is for others to judge.

    Args:
        option: the option's name, for the message.
        text: what the user wrote.

    Raises:
        LabError: if it is none.
    """
    try:
        return int(text)
    except ValueError:
        raise LabError(f"{option} must be a whole number, got {text!r}.") from None


def parse_list(option: str, text: str, parse: Callable[[str, str], Value]) -> tuple[Value, ...]:
    """The values of a list with commas.

    Args:
        option: the option's name, for the message.
        text: what the user wrote.
        parse: reads one value.

    Raises:
        LabError: if one of the values cannot be read.
    """
    return tuple(parse(option, part.strip()) for part in text.split(","))


def parse_name(option: str, text: str) -> str:
    """A name, left for the registries to judge.

    Args:
        option: the option's name, for the message.
        text: what the user wrote.

    Raises:
        LabError: if it is empty.
    """
    if not text:
        raise LabError(f"{option} has an empty name.")
    return text


def parse_time(option: str, text: str) -> float:
    """Seconds of a time such as ``90s``, ``60m`` or ``3h``.

    Args:
        option: the option's name, for the message.
        text: what the user wrote.

    Raises:
        LabError: if it is no such time.
    """
    found = _TIME.fullmatch(text.strip())
    if found is None:
        raise LabError(f"{option} must be a time such as 90s, 60m or 3h, got {text!r}.")
    return float(found[1]) * _UNITS[found[2]]
