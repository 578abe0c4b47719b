"""A GPT in the paper's form: rotary positions, RMSNorm without gain, 2 ReLU^2, a tied head."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_BASE = 10_000.0


class GPT(nn.Module):
    """A causal transformer over tokens, matrices only: no bias and no gain.

    Blocks of attention with rotary positions and normalised queries and keys, and of a
    feed-forward layer four times as wide with 2 ReLU^2; each normalised before. The table of tokens
    is the head too. It maps tokens of shape ``(n, length)`` to logits of shape
    ``(n, length, vocabulary)``.

    Raises:
        ValueError: if the heads do not divide the width into even parts.
    """

    def __init__(self, *, vocabulary: int, dim: int = 768, depth: int = 12, heads: int = 6) -> None:
        super().__init__()
        if dim % (2 * heads):
            raise ValueError(f"twice heads must divide dim {dim}, got {heads} heads")
        self.tokens = nn.Embedding(vocabulary, dim)
        self.blocks = nn.Sequential(*(_Block(dim, heads) for _ in range(depth)))
        self.head = nn.Linear(dim, vocabulary, bias=False)
        nn.init.normal_(self.tokens.weight, std=0.02)
        self.head.weight = self.tokens.weight

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits of shape ``(n, length, vocabulary)``."""
        x = self.blocks(_norm(self.tokens(tokens)))
        return self.head(_norm(x))  # type: ignore[no-any-return]


def _norm(x: Tensor) -> Tensor:
    return F.rms_norm(x, (x.size(-1),))


class _Block(nn.Module):
    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        # Separate layers, so that each has its own norm ball.
        self.query, self.key, self.value, self.mix = (
            nn.Linear(dim, dim, bias=False) for _ in range(4)
        )
        self.up = nn.Linear(dim, 4 * dim, bias=False)
        self.down = nn.Linear(4 * dim, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self._attend(_norm(x))
        return x + self.down(2 * F.relu(self.up(_norm(x))).square())  # type: ignore[no-any-return]

    def _attend(self, x: Tensor) -> Tensor:
        n, length, dim = x.shape
        q, k, v = (
            f(x).view(n, length, self.heads, -1).transpose(1, 2)
            for f in (self.query, self.key, self.value)
        )
        q, k = (rotate(_norm(t)) for t in (q, k))
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.mix(mixed.transpose(1, 2).reshape(n, length, dim))  # type: ignore[no-any-return]


def rotate(x: Tensor) -> Tensor:
    """Rotary positions: pairs of coordinates turned by an angle that grows with the position.

    Args:
        x: shape ``(..., length, dim)``, ``dim`` even.
    """
    half = x.size(-1) // 2
    frequencies = _BASE ** (-torch.arange(half, device=x.device, dtype=torch.float32) / half)
    positions = torch.arange(x.size(-2), device=x.device, dtype=torch.float32)
    angles = positions.unsqueeze(1) * frequencies
    cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    first, second = x[..., :half], x[..., half:]
    return torch.cat([first * cos - second * sin, first * sin + second * cos], dim=-1)
