"""The tasks of the arena, by name."""

from collections.abc import Mapping
from types import MappingProxyType

from normball.lab.arena import images, table, text
from normball.lab.arena.base import ArenaTask
from normball.lab.errors import unknown

TASKS: Mapping[str, ArenaTask] = MappingProxyType(
    {task.name: task for task in (*images.TASKS, *text.TASKS, *table.TASKS)}
)


def find(name: str) -> ArenaTask:
    """The task of that name.

    Args:
        name: a key of ``TASKS``.

    Raises:
        LabError: if there is none.
    """
    if name not in TASKS:
        raise unknown("arena task", name, TASKS)
    return TASKS[name]
