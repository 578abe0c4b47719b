"""What the arena asks of a task: a network, mini-batches, a loss, and two held-out halves."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

Batch = tuple[Tensor, Tensor]
Scores = dict[str, float]


@dataclass(frozen=True)
class ArenaTask:
    """A training problem of some seconds on one core.

    Attributes:
        name: the name on the command line.
        about: network, data and batch, in words.
        unit: of the score, which is the better the lower it is.
        near: how far from the best a score still counts as level: a share of it, or with
            ``points`` the difference itself.
        points: whether ``near`` is a difference.
        steps: of a whole run.
        build: the network, from torch's global generator.
        batch: a mini-batch for training; the generator is the only source of chance.
        loss: the mean loss of a mini-batch, 0-d.
        measure: a model in evaluation mode, ``"choose"`` or ``"judge"``, and whether all of that
            half is wanted or a part that will do for a curve: the score first, then what else is
            worth knowing.
        needs: the sets of ``stock`` that it reads.
    """

    name: str
    about: str
    unit: str
    steps: int
    build: Callable[[], nn.Module]
    batch: Callable[[torch.Generator], Batch]
    loss: Callable[[nn.Module, Batch], Tensor]
    measure: Callable[[nn.Module, str, bool], Scores]
    needs: tuple[str, ...]
    near: float = 0.02
    points: bool = False


def chunks(size: int, *tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Rows of tensors, so many at a time.

    Args:
        size: rows.
        tensors: all with the same number of rows.
    """
    yield from zip(*(torch.split(t, size) for t in tensors), strict=True)


def pick(values: Tensor, size: int, chance: torch.Generator) -> Tensor:
    """The numbers of rows that are drawn with replacement.

    Args:
        values: any tensor with rows.
        size: how many.
        chance: what decides.
    """
    return torch.randint(len(values), (size,), generator=chance)
