"""Where parameters are placed, as `param_groups` is expected to say it, and cases of a model."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from normball.norms import (
    RMS,
    Blocks,
    Column,
    Norm,
    Sign,
    Spectral,
    SpectralConv,
    Transposed,
)

Place = tuple[str, Norm, float]

VECTOR: Place = ("vector", RMS(), 1.0)
BIAS: Place = ("bias", RMS(), 0.25)
TABLE: Place = ("embedding", Column(transposed=True), 1.0)
# A table held as (1, T, C).
FRAMED_TABLE: Place = ("embedding", Transposed(Column(transposed=True)), 1.0)
INPUT: Place = ("input", Spectral(scale="input"), 1.0)
INPUT_CONV: Place = ("input", SpectralConv(scale="input"), 1.0)
OUTPUT: Place = ("output", Sign(), 32.0)
HIDDEN: Place = ("hidden", Spectral(), 5.0)
SCORE: Place = ("hidden", Spectral(), 2.5)
CONV: Place = ("hidden", SpectralConv(), 5.0)


def hidden(norm: Norm) -> Place:
    return ("hidden", norm, 5.0)


@dataclass
class Case:
    """A model, what `param_groups` must make of it, and an output to train on."""

    name: str
    build: Callable[[], nn.Module]
    expected: dict[str, Place]
    run: Callable[[nn.Module], torch.Tensor]

    def __str__(self) -> str:
        return self.name


def on(*shape: int) -> Callable[[nn.Module], torch.Tensor]:
    return lambda model: model(torch.randn(shape))


def on_tokens(*shape: int, count: int = 11) -> Callable[[nn.Module], torch.Tensor]:
    return lambda model: model(torch.randint(count, shape))


def residual(prefix: str) -> dict[str, Place]:
    return {
        f"{prefix}.gamma": VECTOR,
        f"{prefix}.norm.weight": VECTOR,
        f"{prefix}.norm.bias": BIAS,
        f"{prefix}.attn.in_proj_weight": hidden(Blocks(Spectral(), 3)),
        f"{prefix}.attn.in_proj_bias": BIAS,
        f"{prefix}.attn.out_proj.weight": HIDDEN,
        f"{prefix}.attn.out_proj.bias": BIAS,
        f"{prefix}.up.weight": HIDDEN,
        f"{prefix}.up.bias": BIAS,
        f"{prefix}.down.weight": HIDDEN,
    }
