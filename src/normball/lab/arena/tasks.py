"""The tasks of the arena, by name."""

from normball.lab.arena import images, table, text
from normball.lab.arena.base import ArenaTask
from normball.lab.registry import by_name, look_up

TASKS = by_name(*images.TASKS, *text.TASKS, *table.TASKS)


def find(name: str) -> ArenaTask:
    """The task of that name; a LabError has the nearest one if there is none."""
    return look_up("arena task", name, TASKS)
