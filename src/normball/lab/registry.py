"""What has a name on the command line: tasks, networks, optimizers and more."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Protocol, TypeVar

from normball.lab.errors import unknown


class _Named(Protocol):
    @property
    def name(self) -> str: ...


Entry = TypeVar("Entry")
Named = TypeVar("Named", bound=_Named)


def by_name(*entries: Named) -> Mapping[str, Named]:
    """The entries by their names, in this order."""
    return MappingProxyType({entry.name: entry for entry in entries})


def look_up(kind: str, name: str, registry: Mapping[str, Entry]) -> Entry:
    """The entry of that name; a LabError has the nearest name where there is none."""
    if name not in registry:
        raise unknown(kind, name, registry)
    return registry[name]
