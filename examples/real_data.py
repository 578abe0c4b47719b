"""Real data that scikit-learn brings along: digits, and a text that describes its data sets."""

from pathlib import Path

import torch
from sklearn import datasets
from torch import Tensor, nn
from torch.utils.data import Dataset, TensorDataset


def digits() -> tuple[TensorDataset, TensorDataset]:
    """Return 1,437 images for training and 360 for testing: `(1, 8, 8)` in [0, 1], and a class."""
    source = datasets.load_digits()
    x = torch.tensor(source.images, dtype=torch.float32).div(16).unsqueeze(1)
    y = torch.tensor(source.target)
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(0))
    train, test = order[360:], order[:360]
    return TensorDataset(x[train], y[train]), TensorDataset(x[test], y[test])


def cnn() -> nn.Sequential:
    """Return a network for the digits, of three layers with weights and two batch norms."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1, bias=False),
        nn.BatchNorm2d(16),
        nn.GELU(),
        nn.Conv2d(16, 32, 3, padding=1, bias=False),
        nn.BatchNorm2d(32),
        nn.GELU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(512, 10),
    )


@torch.no_grad()
def accuracy(model: nn.Module, test: TensorDataset) -> float:
    """Return the share of the test images whose class `model` finds, in evaluation mode."""
    training = model.training
    model.eval()
    x, y = test.tensors
    share = float((model(x).argmax(1) == y).float().mean())
    model.train(training)
    return share


class Windows(Dataset[dict[str, Tensor]]):
    """Pieces of a text as bytes, `length` each, one after the other, as language models take them.

    Args:
        file: a text file; None for scikit-learn's descriptions of five data sets, 14 kB of English.
        length: bytes in a piece.
    """

    def __init__(self, file: Path | None = None, length: int = 64) -> None:
        if file is None:
            names = ("breast_cancer", "digits", "diabetes", "iris", "wine")
            text = "\n".join(getattr(datasets, f"load_{name}")().DESCR for name in names)
        else:
            text = file.read_text()
        data = torch.tensor(list(text.encode()))
        self.pieces = data[: len(data) // length * length].reshape(-1, length)

    def __len__(self) -> int:
        return len(self.pieces)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"input_ids": self.pieces[index], "labels": self.pieces[index]}
