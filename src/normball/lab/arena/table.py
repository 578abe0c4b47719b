"""The task on a table: the price of a diamond."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from normball.lab.arena.base import ArenaTask, Batch, Scores, pick
from normball.lab.arena.stock import stock

_SIZE, _WIDTH, _DEPTH = 256, 64, 6


def _perceptron() -> nn.Module:
    wide = len(stock("diamonds")["train_x"][0])
    layers: list[nn.Module] = []
    for _ in range(_DEPTH):
        layers += [nn.Linear(wide, _WIDTH), nn.ReLU()]
        wide = _WIDTH
    return nn.Sequential(*layers, nn.Linear(wide, 1), nn.Flatten(0))


def _batch(chance: torch.Generator) -> Batch:
    data = stock("diamonds")
    rows = pick(data["train_y"], _SIZE, chance)
    return data["train_x"][rows], data["train_y"][rows]


def _loss(model: nn.Module, batch: Batch) -> Tensor:
    return F.mse_loss(model(batch[0]), batch[1])


def _measure(model: nn.Module, part: str, whole: bool) -> Scores:  # noqa: ARG001
    data = stock("diamonds")
    return {"loss": float(_loss(model, (data[f"{part}_x"], data[f"{part}_y"])))}


TASKS = (
    ArenaTask(
        name="table",
        about="a perceptron of 6 hidden layers of width 64 on 40,000 diamonds of ggplot2's table, "
        "26 columns, batch 256; 6,970 and 6,970 held out; the price in its deviations",
        unit="mean squared error",
        steps=1500,
        build=_perceptron,
        batch=_batch,
        loss=_loss,
        measure=_measure,
        needs=("diamonds",),
    ),
)
