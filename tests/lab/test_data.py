from collections import Counter

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits as read_digits

from normball.lab.data import load_digits
from normball.lab.models import small_cnn
from normball.lab.tasks import DIGITS


def test_the_split_holds_every_image_once_with_its_class() -> None:
    data = load_digits()
    ours = Counter()
    for x, y in ((data.train_x, data.train_y), (data.test_x, data.test_y)):
        assert x.dtype == torch.float32
        assert x.shape[1:] == (1, 8, 8)
        ours.update(
            (image.numpy().tobytes(), int(label)) for image, label in zip(x, y, strict=True)
        )
    source = read_digits()
    theirs = Counter(
        ((image / 16).astype(np.float32).tobytes(), int(label))
        for image, label in zip(source.images, source.target, strict=True)
    )
    assert ours == theirs


def test_the_split_is_stratified() -> None:
    data = load_digits()
    total = torch.bincount(torch.cat([data.train_y, data.test_y]))
    share = torch.bincount(data.test_y) / total
    assert torch.all((share - 0.2).abs() * total <= 1)


def test_the_split_does_not_depend_on_the_global_seed() -> None:
    first = load_digits.__wrapped__()
    np.random.seed(7)  # noqa: NPY002
    torch.manual_seed(7)
    second = load_digits.__wrapped__()
    assert torch.equal(first.test_x, second.test_x)
    assert torch.equal(first.train_y, second.train_y)


def test_what_the_task_says_of_its_data_is_so() -> None:
    data = load_digits()
    assert len(data.train_y) == DIGITS.train_size
    for number in (len(data.train_y) + len(data.test_y), len(data.train_y), len(data.test_y)):
        assert f"{number:,}" in DIGITS.about_data
    assert data.train_x.min() == 0
    assert data.train_x.max() == 1


def test_small_cnn_has_the_layers_it_declares() -> None:
    model = small_cnn(channels=3, size=12, widths=(4, 6), classes=7)
    assert model(torch.zeros(2, 3, 12, 12)).shape == (2, 7)
    weights = 4 * 3 * 9 + 4, 6 * 4 * 9 + 6, 7 * 6 * 36 + 7
    assert sum(p.numel() for p in model.parameters()) == sum(weights)


def test_small_cnn_refuses_an_odd_size() -> None:
    with pytest.raises(ValueError, match="got 7"):
        small_cnn(size=7)
