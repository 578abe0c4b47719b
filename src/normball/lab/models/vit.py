"""A vision transformer in the paper's form: RMSNorm, and GELU scaled to keep the variance."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class ViT(nn.Module):
    """DeiT's transformer on image patches, with RMSNorm and sqrt(2) GELU.

    A class token and learned positions; blocks of attention and a feed-forward layer four times as
    wide, each normalised before; the class token's state is normalised and mapped to logits. It
    maps images of shape ``(n, channels, size, size)`` to logits of shape ``(n, classes)``.

    Args:
        size: height and width of the images, in pixels.
        patch: height and width of a patch, in pixels.

    Raises:
        ValueError: if patches do not tile the image, or heads do not divide the width.
    """

    def __init__(
        self,
        *,
        channels: int,
        size: int,
        classes: int,
        patch: int = 16,
        dim: int = 768,
        depth: int = 12,
        heads: int = 12,
    ) -> None:
        super().__init__()
        if size % patch:
            raise ValueError(f"patch must divide size {size}, got {patch}")
        if dim % heads:
            raise ValueError(f"heads must divide dim {dim}, got {heads}")
        self.patches = nn.Conv2d(channels, dim, patch, stride=patch)
        self.token = nn.Parameter(torch.zeros(dim))
        self.positions = nn.Embedding((size // patch) ** 2 + 1, dim)
        nn.init.trunc_normal_(self.positions.weight, std=0.02)
        self.blocks = nn.Sequential(*(_Block(dim, heads) for _ in range(depth)))
        self.norm = nn.RMSNorm(dim)
        self.head = nn.Linear(dim, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of shape ``(n, classes)``."""
        x = self.patches(x).flatten(2).transpose(1, 2)
        token = self.token.expand(len(x), 1, -1)
        x = torch.cat([token, x], dim=1) + self.positions.weight
        return self.head(self.norm(self.blocks(x)[:, 0]))  # type: ignore[no-any-return]


class _Block(nn.Module):
    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.RMSNorm(dim), nn.RMSNorm(dim)
        # Separate layers, so that each has its own norm ball.
        self.query, self.key, self.value = (nn.Linear(dim, dim) for _ in range(3))
        self.mix = nn.Linear(dim, dim)
        self.up, self.down = nn.Linear(dim, 4 * dim), nn.Linear(4 * dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self._attend(self.norm1(x))
        return x + self.down(math.sqrt(2) * F.gelu(self.up(self.norm2(x))))  # type: ignore[no-any-return]

    def _attend(self, x: Tensor) -> Tensor:
        n, length, dim = x.shape
        q, k, v = (
            f(x).view(n, length, self.heads, -1).transpose(1, 2)
            for f in (self.query, self.key, self.value)
        )
        mixed = F.scaled_dot_product_attention(q, k, v)
        return self.mix(mixed.transpose(1, 2).reshape(n, length, dim))  # type: ignore[no-any-return]
