"""The arena: optimizers of many families on many kinds of tasks, all tuned in the same way."""

from normball.lab.arena.stock import prepare
from normball.lab.arena.tasks import TASKS
from normball.lab.arena.training import run

__all__ = ["TASKS", "prepare", "run"]
