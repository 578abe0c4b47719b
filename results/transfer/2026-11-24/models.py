"""The networks and the data of the transfer runs, at any width and depth."""

import gzip
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

HEAD = 32


def mlp(width: int, depth: int) -> nn.Sequential:
    """`depth` hidden layers of `width` after the first one, PyTorch's own initialisation."""
    hidden = [layer for _ in range(depth - 1) for layer in (nn.Linear(width, width), nn.ReLU())]
    return nn.Sequential(nn.Linear(784, width), nn.ReLU(), *hidden, nn.Linear(width, 10))


class Block(nn.Module):
    """Attention and a feed-forward part, each behind an RMSNorm, without biases."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.RMSNorm(width), nn.RMSNorm(width)
        self.query, self.key, self.value, self.proj = (
            nn.Linear(width, width, bias=False) for _ in range(4)
        )
        self.up = nn.Linear(width, 4 * width, bias=False)
        self.down = nn.Linear(4 * width, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm1(x)
        q, k, v = (
            layer(y).unflatten(-1, (-1, HEAD)).transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        )
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.proj(y.transpose(1, 2).flatten(2))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class GPT(nn.Module):
    """A character model; heads of 32 channels, so that width adds heads."""

    def __init__(self, width: int, depth: int, vocabulary: int, length: int) -> None:
        super().__init__()
        self.wte, self.wpe = nn.Embedding(vocabulary, width), nn.Embedding(length, width)
        self.blocks = nn.Sequential(*(Block(width) for _ in range(depth)))
        self.norm = nn.RMSNorm(width)
        self.head = nn.Linear(width, vocabulary, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        positions = torch.arange(tokens.shape[1], device=tokens.device)
        return self.head(self.norm(self.blocks(self.wte(tokens) + self.wpe(positions))))


class Fashion:
    """10,000 training images of Fashion-MNIST and 2,000 of its test images."""

    batch_size = 128

    def __init__(self, folder: Path) -> None:
        def read(name: str, count: int, header: int) -> Tensor:
            raw = gzip.decompress((folder / name).read_bytes())[header:]
            entries = torch.frombuffer(bytearray(raw), dtype=torch.uint8)
            return entries.reshape(-1, 784 if header == 16 else 1)[:count]

        self.train = self._set(read, "train", 10_000)
        self.test = self._set(read, "t10k", 2_000)

    @staticmethod
    def _set(read, part: str, count: int) -> tuple[Tensor, Tensor]:
        images = read(f"{part}-images-idx3-ubyte.gz", count, 16).float().div(255)
        classes = read(f"{part}-labels-idx1-ubyte.gz", count, 8).flatten().long()
        return (images - 0.286) / 0.353, classes

    def build(self, width: int, depth: int) -> nn.Module:
        return mlp(width, depth)

    def batches(self, generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
        x, y = self.train
        while True:
            for rows in torch.randperm(len(y), generator=generator).split(self.batch_size):
                if len(rows) == self.batch_size:
                    yield x[rows], y[rows]

    def loss(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        return F.cross_entropy(model(batch[0]), batch[1])

    def held_out(self, model: nn.Module) -> Tensor:
        return self.loss(model, self.test)


class Characters:
    """A text by characters, the last tenth held out."""

    batch_size, length = 16, 64

    def __init__(self, file: Path) -> None:
        text = file.read_text()
        known = {character: i for i, character in enumerate(sorted(set(text)))}
        data = torch.tensor([known[character] for character in text])
        self.vocabulary = len(known)
        self.train, self.test = data[: len(data) * 9 // 10], data[len(data) * 9 // 10 :]

    def build(self, width: int, depth: int) -> nn.Module:
        return GPT(width, depth, self.vocabulary, self.length)

    def batches(self, generator: torch.Generator, *, test: bool = False) -> Iterator[Tensor]:
        data = self.test if test else self.train
        while True:
            starts = torch.randint(
                len(data) - self.length - 1, (self.batch_size,), generator=generator
            )
            yield torch.stack([data[s : s + self.length + 1] for s in starts.tolist()])

    def loss(self, model: nn.Module, batch: Tensor) -> Tensor:
        return F.cross_entropy(model(batch[:, :-1]).flatten(0, 1), batch[:, 1:].flatten())

    def held_out(self, model: nn.Module) -> Tensor:
        batches = self.batches(torch.Generator().manual_seed(1), test=True)
        return torch.stack([self.loss(model, next(batches)) for _ in range(16)]).mean()
