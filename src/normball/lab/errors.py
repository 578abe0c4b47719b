"""The errors of the lab: a request that cannot be done, or a fault of the program."""

import difflib
from collections.abc import Iterable


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
