"""The tasks of the arena, by name."""

from collections.abc import Mapping
from types import MappingProxyType

from normball.lab.arena import images, table, text
from normball.lab.arena.base import ArenaTask
from normball.lab.errors import look_up

TASKS: Mapping[str, ArenaTask] = MappingProxyType(
    {task.name: task for task in (*images.TASKS, *text.TASKS, *table.TASKS)}
)


def find(name: str) -> ArenaTask:
    """The task of that name; a LabError has the nearest one if there is none."""
    return look_up("arena task", name, TASKS)
