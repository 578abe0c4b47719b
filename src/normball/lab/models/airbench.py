"""The convolutional network of the CIFAR-10 speed records."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_KERNEL = 2
_SCALE = 1 / 9
_EPSILON = 5e-4


class Airbench(nn.Module):
    """A frozen whitening convolution, three blocks of two 3x3 convolutions, and a linear layer.

    The network of Keller Jordan's airbench as the paper uses it: BatchNorm without gain, GELU,
    2x2 max pooling in every block, the logits divided by 9. It maps images of shape
    ``(n, channels, size, size)`` to logits of shape ``(n, classes)``. Before training the first
    layer has to see images, by ``whiten``.

    Args:
        size: height and width of the images, in pixels; 24 or more.
        width: factor on the widths 64, 256 and 256 of the blocks.

    Raises:
        ValueError: if the images are too small for three poolings, or a block has no channel.
    """

    def __init__(self, *, channels: int, size: int, classes: int, width: float = 1.0) -> None:
        super().__init__()
        widths = [round(width * full) for full in (64, 256, 256)]
        if size < 24:
            raise ValueError(f"size must be 24 or more, got {size}")
        if min(widths) < 1:
            raise ValueError(f"width {width} leaves a block without channels")
        directions = 2 * channels * _KERNEL**2
        self.whitening = nn.Conv2d(channels, directions, _KERNEL)
        self.whitening.weight.requires_grad = False
        nn.init.zeros_(self.whitening.bias)  # type: ignore[arg-type]
        outs = zip([directions, *widths], widths, strict=False)
        self.blocks = nn.Sequential(*(_block(before, after) for before, after in outs))
        self.head = nn.Linear(widths[-1], classes, bias=False)

    @torch.no_grad()
    def whiten(self, images: Tensor) -> None:
        """Set the first layer to the principal directions of 2x2 patches, and their negatives.

        Args:
            images: training inputs as the network takes them, shape ``(n, channels, h, w)``.
        """
        patches = F.unfold(images, _KERNEL).transpose(1, 2).flatten(0, 1).double()
        covariance = patches.T @ patches / len(patches)
        values, vectors = torch.linalg.eigh(covariance)
        filters = (vectors / (values + _EPSILON).sqrt()).T
        weight = self.whitening.weight
        weight.copy_(torch.cat([filters, -filters]).view_as(weight))

    def forward(self, x: Tensor) -> Tensor:
        """Logits of shape ``(n, classes)``."""
        x = self.blocks(F.gelu(self.whitening(x)))
        return self.head(F.adaptive_max_pool2d(x, 1).flatten(1)) * _SCALE  # type: ignore[no-any-return]


def _block(before: int, after: int) -> nn.Sequential:
    return nn.Sequential(
        _Convolution(before, after),
        nn.MaxPool2d(2),
        _norm(after),
        nn.GELU(),
        _Convolution(after, after),
        _norm(after),
        nn.GELU(),
    )


class _Convolution(nn.Conv2d):
    """3x3 without bias, which first hands its input on: a Dirac kernel in the first channels."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__(before, after, 3, padding="same", bias=False)

    def reset_parameters(self) -> None:
        super().reset_parameters()
        shared = min(self.out_channels, self.in_channels)
        nn.init.dirac_(self.weight.data[:shared])


def _norm(channels: int) -> nn.BatchNorm2d:
    norm = nn.BatchNorm2d(channels, momentum=0.4, eps=1e-12)
    norm.weight.requires_grad = False
    return norm
