"""The data interface for training: mini-batches in an order set by a seed, and a test set."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from normball.lab.errors import LabError

_TEST_BATCH = 1024
_TEST_TOKENS = 16_384
_SAMPLE = 5000

Batch = tuple[Tensor, Tensor]


class Data(Protocol):
    """Training examples and a test set."""

    @property
    def source(self) -> str:
        """Which data these are, in words, for the record of a run."""

    def steps(self, size: int) -> int:
        """How many mini-batches an epoch has.

        Args:
            size: examples in a mini-batch.
        """

    def batches(self, size: int, order: torch.Generator) -> Iterator[Batch]:
        """One epoch's mini-batches of inputs and classes, all of one size.

        Args:
            order: the only source of randomness.
        """

    def test_batches(self) -> Iterator[Batch]:
        """The test set, the same every time."""

    def sample(self) -> Tensor:
        """Some training inputs, always the same, not augmented, for layers that start from data."""


@dataclass(frozen=True)
class Images:
    """The tensors of a classification task, with a fixed split.

    Attributes:
        train_x: training inputs, shape ``(n, channels, height, width)``: float32 as the network
            takes them, or uint8, which ``mean`` and ``deviation`` scale when they are used.
        train_y: training classes, int64, shape ``(n,)``.
        test_x: test inputs, likewise, shape ``(m, channels, height, width)``.
        test_y: test classes, int64, shape ``(m,)``.
        source: which data these are.
        mean: of every channel, on the scale of 0 to 255; for uint8.
        deviation: of every channel, likewise.
        shift: augmentation: every training image is moved at random by up to this many pixels,
            mirrored at its border, and flipped left to right at random; 0 for neither.
    """

    train_x: Tensor
    train_y: Tensor
    test_x: Tensor
    test_y: Tensor
    source: str
    mean: tuple[float, ...] = ()
    deviation: tuple[float, ...] = ()
    shift: int = 0

    def steps(self, size: int) -> int:
        """See ``Data``: the examples left after the last full mini-batch are not used."""
        return len(self.train_y) // size

    def batches(self, size: int, order: torch.Generator) -> Iterator[Batch]:
        """See ``Data``."""
        shuffled = torch.randperm(len(self.train_y), generator=order)
        for batch in torch.split(shuffled[: self.steps(size) * size], size):
            x = self.scaled(self.train_x[batch])
            yield (self._augmented(x, order) if self.shift else x), self.train_y[batch]

    def test_batches(self) -> Iterator[Batch]:
        """See ``Data``."""
        pairs = (torch.split(t, _TEST_BATCH) for t in (self.test_x, self.test_y))
        for x, y in zip(*pairs, strict=True):
            yield self.scaled(x), y

    def sample(self) -> Tensor:
        """See ``Data``: the first 5000."""
        return self.scaled(self.train_x[:_SAMPLE])

    def scaled(self, x: Tensor) -> Tensor:
        """Inputs as the network takes them."""
        if x.dtype != torch.uint8:
            return x
        mean, deviation = (torch.tensor(t).view(-1, 1, 1) for t in (self.mean, self.deviation))
        return (x.float() - mean) / deviation

    def _augmented(self, x: Tensor, order: torch.Generator) -> Tensor:
        count, channels, height, width = x.shape
        flip = torch.rand(count, generator=order) < 0.5
        x = torch.where(flip.view(-1, 1, 1, 1), x.flip(-1), x)
        padded = F.pad(x, (self.shift,) * 4, mode="reflect")
        corner = torch.randint(0, 2 * self.shift + 1, (2, count), generator=order)
        rows = corner[0].view(-1, 1) + torch.arange(height)
        columns = corner[1].view(-1, 1) + torch.arange(width)
        moved = padded.gather(
            2, rows.view(count, 1, -1, 1).expand(-1, channels, -1, padded.size(3))
        )
        return moved.gather(3, columns.view(count, 1, 1, -1).expand(-1, channels, height, -1))


@dataclass(frozen=True)
class Text:
    """A stream of tokens to be continued; every window of it is an example.

    An epoch is a fixed number of steps, each on windows drawn at random, as is usual for text.

    Attributes:
        train: training tokens, of an integer type, shape ``(n,)``; may be a memory map.
        test: tokens that are not trained on, shape ``(m,)``.
        vocabulary: number of different tokens.
        window: tokens of an example.
        epoch: steps of an epoch.
        source: which text this is.
        test_windows: how many windows of the test tokens are used, spread evenly over them and
            without overlap; fewer if there are not that many.
    """

    train: Tensor
    test: Tensor
    vocabulary: int
    window: int
    epoch: int
    source: str
    test_windows: int

    def steps(self, size: int) -> int:  # noqa: ARG002
        """See ``Data``."""
        return self.epoch

    def batches(self, size: int, order: torch.Generator) -> Iterator[Batch]:
        """See ``Data``."""
        for _ in range(self.epoch):
            starts = torch.randint(len(self.train) - self.window, (size,), generator=order)
            yield self._windows(self.train, starts)

    def test_batches(self) -> Iterator[Batch]:
        """See ``Data``."""
        count = min(self.test_windows, (len(self.test) - 1) // self.window)
        # The first window of each of equal parts: the beginning of a text is not typical of it.
        starts = torch.arange(count) * (len(self.test) - 1) // count
        for some in torch.split(starts, max(1, _TEST_TOKENS // self.window)):
            yield self._windows(self.test, some)

    def sample(self) -> Tensor:
        """See ``Data``: the first window."""
        return self._windows(self.train, torch.zeros(1, dtype=torch.int64))[0]

    def _windows(self, tokens: Tensor, starts: Tensor) -> Batch:
        rows = torch.stack([tokens[s : s + self.window + 1] for s in starts.tolist()]).long()
        # Checked here, because a file of many gigabytes is not read before it is used.
        if (largest := int(rows.max())) >= self.vocabulary:
            raise LabError(
                f"{self.source}: the token {largest} is beyond the vocabulary of "
                f"{self.vocabulary:,}. Put a file there that was made with this vocabulary."
            )
        return rows[:, :-1], rows[:, 1:]
