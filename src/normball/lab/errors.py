"""The errors of the lab: a request that cannot be done, or a fault of the program."""

import difflib
from collections.abc import Iterable, Mapping
from typing import TypeVar

Entry = TypeVar("Entry")


class LabError(Exception):
    """Something the user asked for cannot be done; the message names the value and the remedy."""


class WorkerError(RuntimeError):
    """A run failed by a fault of the program, or because its process was ended from outside."""


def unknown(kind: str, value: str, known: Iterable[str]) -> LabError:
    """The error for a name that is not among those that are known, with the nearest one if any."""
    names = sorted(known)
    near = difflib.get_close_matches(value.lower(), names, n=1)
    advice = f"did you mean {near[0]!r}?" if near else f"choose one of: {', '.join(names)}."
    return LabError(f"unknown {kind} {value!r}: {advice}")


def look_up(kind: str, name: str, registry: Mapping[str, Entry]) -> Entry:
    """The entry of that name; a LabError names the nearest one where there is none."""
    if name not in registry:
        raise unknown(kind, name, registry)
    return registry[name]
