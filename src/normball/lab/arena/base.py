"""The parts of an arena task: a network, mini-batches, a loss, and two held-out halves."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
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
        unit: of the score; lower scores are better.
        near: how far a score may be from the best one to count as equally good: a share of the
            best, or with ``points`` the difference itself.
        points: whether ``near`` is a difference.
        steps: of a whole run.
        build: the network, from torch's global generator.
        batch: a mini-batch for training; the generator is the only source of randomness.
        loss: the mean loss of a mini-batch, 0-d.
        measure: returns the score first, then other measurements. It takes a model in evaluation
            mode, ``"choose"`` or ``"judge"``, and whether to use all of that half, or a part that
            is enough for a curve.
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
    """Rows of tensors, ``size`` at a time."""
    yield from zip(*(torch.split(t, size) for t in tensors), strict=True)


def pick(values: Tensor, size: int, chance: torch.Generator) -> Tensor:
    """The numbers of rows that are drawn with replacement."""
    return torch.randint(len(values), (size,), generator=chance)


@contextmanager
def one_thread() -> Iterator[None]:
    """Arithmetic in one thread, so that runs are the same and can be side by side."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
