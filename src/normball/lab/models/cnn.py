"""A small convolutional network for small images."""

from collections import OrderedDict

from torch import nn


def small_cnn(
    *, channels: int = 1, size: int = 8, widths: tuple[int, int] = (16, 32), classes: int = 10
) -> nn.Sequential:
    """Two 3x3 convolutions with GELU, a 2x2 max pooling, one linear layer: three layers in all.

    It maps images of shape ``(n, channels, size, size)`` to logits of shape ``(n, classes)``, and
    keeps PyTorch's default initialisation.

    Args:
        size: height and width of the images, in pixels; even.
        widths: output channels of the two convolutions.

    Raises:
        ValueError: if ``size`` is odd, which the pooling would cut.
    """
    if size % 2:
        raise ValueError(f"size must be even, got {size}: pad the images by one pixel")
    first, second = widths
    return nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(channels, first, kernel_size=3, padding=1),
            gelu1=nn.GELU(),
            conv2=nn.Conv2d(first, second, kernel_size=3, padding=1),
            gelu2=nn.GELU(),
            pool=nn.MaxPool2d(2),
            flatten=nn.Flatten(),
            output=nn.Linear(second * (size // 2) ** 2, classes),
        )
    )
