"""The networks of the experiments, by name."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import nn

from normball.lab.errors import LabError, unknown
from normball.lab.models.airbench import Airbench
from normball.lab.models.cnn import small_cnn
from normball.lab.models.gpt import GPT
from normball.lab.models.mlp import mlp
from normball.lab.models.vit import ViT
from normball.lab.registry import by_name

__all__ = ["GPT", "MODELS", "Airbench", "Shape", "ViT", "find_model", "mlp", "small_cnn"]


@dataclass(frozen=True)
class Shape:
    """The shape of a task's examples, as a network needs it.

    Attributes:
        channels: of an image; 0 for text.
        size: height and width of an image, in pixels; 0 for text.
        classes: number of classes; of text, the vocabulary.
    """

    channels: int
    size: int
    classes: int


@dataclass(frozen=True)
class ModelSpec:
    """A network as the lab knows it.

    Attributes:
        name: the name on the command line.
        about: one sentence for a report.
        text: whether it is for text; else for images.
        build: makes it for a shape and a width factor, from torch's global generator.
    """

    name: str
    about: str
    text: bool
    build: Callable[[Shape, float], nn.Module]


def _image(maker: Callable[..., nn.Module], shape: Shape, **options: Any) -> nn.Module:
    return maker(channels=shape.channels, size=shape.size, classes=shape.classes, **options)


def _times(width: float, size: int) -> int:
    wide = round(size * width)
    if wide < 1:
        raise ValueError("no channel is left, choose a larger --width")
    return wide


def _cnn(shape: Shape, width: float) -> nn.Module:
    return _image(small_cnn, shape, widths=(_times(width, 16), _times(width, 32)))


def _mlp(shape: Shape, width: float) -> nn.Module:
    return _image(mlp, shape, width=_times(width, 128))


def _airbench(shape: Shape, width: float) -> nn.Module:
    return _image(Airbench, shape, width=width)


def _vit(shape: Shape, width: float, *, patch: int, dim: int, depth: int, heads: int) -> nn.Module:
    wide = heads * _times(width, dim // heads)
    return _image(ViT, shape, patch=patch, dim=wide, depth=depth, heads=heads)


def _gpt(shape: Shape, width: float, *, dim: int, depth: int, heads: int) -> nn.Module:
    wide = 2 * heads * _times(width, dim // (2 * heads))
    return GPT(vocabulary=shape.classes, dim=wide, depth=depth, heads=heads)


_OURS = "with rotary positions, RMSNorm, 2 ReLU^2 and a tied head."


def _gpts(name: str, about: str, dim: int, depth: int, heads: int) -> ModelSpec:
    build = partial(_gpt, dim=dim, depth=depth, heads=heads)
    return ModelSpec(name, f"A GPT of {about}, {_OURS}", True, build)


MODELS = by_name(
    ModelSpec(
        "cnn",
        "Two 3x3 convolutions (16 and 32 channels) with GELU, a 2x2 max pooling and one linear "
        "layer; PyTorch's default initialisation, no normalisation layers, no augmentation.",
        False,
        _cnn,
    ),
    ModelSpec("mlp", "Three linear layers of width 128 with GELU.", False, _mlp),
    ModelSpec(
        "airbench",
        "A whitening convolution and three blocks of two 3x3 convolutions (64, 256 and 256 "
        "channels times the width factor) with BatchNorm and GELU, and one linear layer.",
        False,
        _airbench,
    ),
    ModelSpec(
        "vit-tiny",
        "A vision transformer of 4 blocks, width 64, patches of 4x4 pixels, RMSNorm and sqrt(2) "
        "GELU.",
        False,
        partial(_vit, patch=4, dim=64, depth=4, heads=4),
    ),
    ModelSpec(
        "deit-base",
        "DeiT-base: 12 blocks, width 768, patches of 16x16 pixels, with RMSNorm and sqrt(2) GELU.",
        False,
        partial(_vit, patch=16, dim=768, depth=12, heads=12),
    ),
    _gpts("gpt-tiny", "3 blocks and width 64", 64, 3, 2),
    _gpts("gpt-small", "4 blocks and width 128, as nanoGPT's configuration for a CPU", 128, 4, 4),
    _gpts("gpt-124m", "12 blocks and width 768, head dimension 128", 768, 12, 6),
    _gpts("gpt-1b", "18 blocks and width 2048, head dimension 128", 2048, 18, 16),
)


def find_model(name: str, *, text: bool) -> ModelSpec:
    """The network of that name; a LabError if there is none for this kind of data."""
    fitting = [spec.name for spec in MODELS.values() if spec.text == text]
    if name not in MODELS:
        raise unknown("model", name, fitting)
    if MODELS[name].text != text:
        kind = "text" if text else "images"
        raise LabError(f"--model {name} is not for {kind}: choose one of {', '.join(fitting)}.")
    return MODELS[name]
