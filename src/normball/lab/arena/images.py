"""Tasks on images: two kinds of digits, clothes with two architectures, and denoising."""

from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from normball.lab.arena.base import ArenaTask, Batch, Scores, chunks, pick
from normball.lab.arena.nets import ResNet, UNet
from normball.lab.arena.stock import stock
from normball.lab.models.cnn import small_cnn
from normball.lab.models.vit import ViT

_CHUNK = 500
_FEW = 1000
_NOISE = 0.5
# Mean and deviation of the pixels, 0 to 16 and 0 to 255.
_SCALES = {"digits": (4.88, 6.02), "fashion": (72.94, 90.02)}


def _scaled(name: str, x: Tensor) -> Tensor:
    mean, deviation = _SCALES[name]
    return (x.float() - mean) / deviation


def _batch(name: str, size: int, chance: torch.Generator) -> Batch:
    data = stock(name)
    rows = pick(data["train_y"], size, chance)
    return _scaled(name, data["train_x"][rows]), data["train_y"][rows]


def _cross_entropy(model: nn.Module, batch: Batch) -> Tensor:
    return F.cross_entropy(model(batch[0]), batch[1])


def _errors(name: str, model: nn.Module, part: str, whole: bool) -> Scores:
    data, wrong, loss = stock(name), 0, 0.0
    count = len(data[f"{part}_y"]) if whole else _FEW
    for x, y in chunks(_CHUNK, data[f"{part}_x"][:count], data[f"{part}_y"][:count]):
        logits = model(_scaled(name, x))
        wrong += int((logits.argmax(1) != y).sum())
        loss += float(F.cross_entropy(logits, y, reduction="sum"))
    return {"errors": 100 * wrong / count, "loss": loss / count}


def _noisy(size: int, chance: torch.Generator) -> Batch:
    clean, _ = _batch("fashion", size, chance)
    return clean + _NOISE * torch.randn(clean.shape, generator=chance), clean


def _squared(model: nn.Module, batch: Batch) -> Tensor:
    return F.mse_loss(model(batch[0]), batch[1])


def _remaining(model: nn.Module, part: str, whole: bool) -> Scores:
    clean = _scaled("fashion", stock("fashion")[f"{part}_x"][: _FEW if whole else _FEW // 2])
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(len(part)))
    total = sum(
        float(F.mse_loss(model(x + _NOISE * n), x)) * len(x)
        for x, n in chunks(_CHUNK // 2, clean, noise)
    )
    return {"loss": total / len(clean)}


def _classes(name: str, data: str, size: int, **options: object) -> ArenaTask:
    return ArenaTask(
        name=name,
        unit="% wrong",
        batch=partial(_batch, data, size),
        loss=_cross_entropy,
        measure=partial(_errors, data),
        needs=(data,),
        near=1.0,
        points=True,
        **options,  # type: ignore[arg-type]
    )


TASKS = (
    _classes(
        "digits",
        "digits",
        32,
        about="a plain CNN (16 and 32 channels, GELU, one linear layer) on 597 of scikit-learn's "
        "digits, batch 32; 600 and 600 held out",
        steps=600,
        build=small_cnn,
    ),
    _classes(
        "resnet",
        "fashion",
        96,
        about="a ResNet with batch norm (16, 32 and 64 channels) on 8,000 images of "
        "Fashion-MNIST, batch 96; 5,000 and 5,000 held out",
        steps=200,
        build=partial(ResNet, channels=1, classes=10),
    ),
    _classes(
        "vit",
        "fashion",
        64,
        about="a vision transformer (3 blocks, width 64, patches of 7 x 7, RMSNorm) on 8,000 "
        "images of Fashion-MNIST, batch 64; 5,000 and 5,000 held out",
        steps=300,
        build=partial(ViT, channels=1, size=28, classes=10, patch=7, dim=64, depth=3, heads=4),
    ),
    ArenaTask(
        name="denoise",
        about="a U-Net (12, 24 and 48 channels, GELU) takes noise of half the pixels' deviation "
        "off Fashion-MNIST, batch 24; 1,000 and 1,000 images held out",
        unit="mean squared error",
        steps=250,
        build=UNet,
        batch=partial(_noisy, 24),
        loss=_squared,
        measure=_remaining,
        needs=("fashion",),
    ),
)
