"""Fixed batches of real data that every machine has: scikit-learn's digits and its descriptions."""

from functools import cache

import torch
from torch import Tensor


@cache
def digits(count: int, size: int = 8) -> tuple[Tensor, Tensor]:
    """Return images `(count, 1, size, size)` in [-1, 1], enlarged by repetition, and classes."""
    from sklearn.datasets import load_digits

    source = load_digits()
    images = torch.as_tensor(source.images[:count], dtype=torch.float32).div(8).sub(1).unsqueeze(1)
    times = size // 8
    images = images.repeat_interleave(times, 2).repeat_interleave(times, 3)
    return images, torch.as_tensor(source.target[:count])


@cache
def text(count: int, length: int) -> Tensor:
    """Return `(count, length)` bytes of English, int64, below 128."""
    from sklearn.datasets import load_breast_cancer

    raw = load_breast_cancer().DESCR.encode("ascii", "ignore")
    return torch.tensor(list(raw[: count * length])).reshape(count, length)


def spelled(classes: Tensor) -> Tensor:
    """Return the English names of digits as bytes, `(n, 6)`, an end mark 3 and padding 0 after."""
    names = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
    rows = [[*names[int(c)].encode(), 3] for c in classes]
    return torch.tensor([row + [0] * (6 - len(row)) for row in rows])
