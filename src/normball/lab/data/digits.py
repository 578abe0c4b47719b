"""scikit-learn's digits."""

from functools import cache

import torch
from torch import Tensor

from normball.lab.data.base import Images

DIGITS_SPLIT_SEED = 0
DIGITS_TEST_SHARE = 0.2


@cache
def load_digits() -> Images:
    """scikit-learn's handwritten digits: 1,797 grey images of 8x8 pixels in 10 classes.

    The pixels, 0 to 16 in the source, are divided by 16. The split is stratified, 1,437 images for
    training and 360 for testing, and drawn with a seed of its own: it is the same in every run,
    whatever the run's seed.

    Returns:
        The split data; inputs have shape ``(n, 1, 8, 8)``.
    """
    # Imported here: scikit-learn takes a second to load, and only this data set needs it.
    from sklearn.datasets import load_digits as read_digits
    from sklearn.model_selection import train_test_split

    source = read_digits()
    train_images, test_images, train_labels, test_labels = train_test_split(
        source.images,
        source.target,
        test_size=DIGITS_TEST_SHARE,
        random_state=DIGITS_SPLIT_SEED,
        stratify=source.target,
    )

    def pixels(images: object) -> Tensor:
        return torch.as_tensor(images, dtype=torch.float32).div(16).unsqueeze(1)

    def classes(labels: object) -> Tensor:
        return torch.as_tensor(labels, dtype=torch.int64)

    return Images(
        pixels(train_images),
        classes(train_labels),
        pixels(test_images),
        classes(test_labels),
        source="scikit-learn's digits",
    )
