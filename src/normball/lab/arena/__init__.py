"""The arena: optimizers of all families on tasks of all kinds, each tuned alike."""

from normball.lab.arena.stock import prepare
from normball.lab.arena.tasks import TASKS
from normball.lab.arena.training import run

__all__ = ["TASKS", "prepare", "run"]
