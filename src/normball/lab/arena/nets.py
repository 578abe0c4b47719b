"""The networks that only the arena trains, each in its usual form."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class ResNet(nn.Module):
    """A residual network with batch norm: three blocks of two convolutions.

    It maps images of shape ``(n, channels, size, size)`` to logits of shape ``(n, classes)``.

    Args:
        width: channels of the first block; the others have two and four times as many.
    """

    def __init__(self, *, channels: int, classes: int, width: int = 16) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, width, 3, stride=2, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(width)
        self.blocks = nn.Sequential(
            _Residual(width, width, 1),
            _Residual(width, 2 * width, 2),
            _Residual(2 * width, 4 * width, 2),
        )
        self.head = nn.Linear(4 * width, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of shape ``(n, classes)``."""
        x = self.blocks(F.relu(self.norm(self.conv(x))))
        return self.head(x.mean((2, 3)))  # type: ignore[no-any-return]


class _Residual(nn.Module):
    def __init__(self, inside: int, outside: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inside, outside, 3, stride=stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(outside)
        self.conv2 = nn.Conv2d(outside, outside, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(outside)
        self.skip: nn.Module = nn.Identity()
        if stride != 1 or inside != outside:
            self.skip = nn.Conv2d(inside, outside, 1, stride=stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        inside = F.relu(self.norm1(self.conv1(x)))
        return F.relu(self.skip(x) + self.norm2(self.conv2(inside)))


class UNet(nn.Module):
    """An encoder and a decoder with a bridge between them at each of two scales.

    It maps noisy images of shape ``(n, 1, size, size)``, ``size`` a multiple of 4, to clean ones.

    Args:
        width: channels at full size.
    """

    def __init__(self, *, width: int = 12) -> None:
        super().__init__()
        self.enter = nn.Conv2d(1, width, 3, padding=1)
        self.down1 = nn.Conv2d(width, 2 * width, 3, stride=2, padding=1)
        self.down2 = nn.Conv2d(2 * width, 4 * width, 3, stride=2, padding=1)
        self.middle = nn.Conv2d(4 * width, 4 * width, 3, padding=1)
        self.up2 = nn.ConvTranspose2d(4 * width, 2 * width, 2, stride=2)
        self.join2 = nn.Conv2d(4 * width, 2 * width, 3, padding=1)
        self.up1 = nn.ConvTranspose2d(2 * width, width, 2, stride=2)
        self.join1 = nn.Conv2d(2 * width, width, 3, padding=1)
        self.leave = nn.Conv2d(width, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Images of the shape of the given ones."""
        full = F.gelu(self.enter(x))
        half = F.gelu(self.down1(full))
        quarter = F.gelu(self.middle(F.gelu(self.down2(half))))
        half = F.gelu(self.join2(torch.cat([half, self.up2(quarter)], 1)))
        full = F.gelu(self.join1(torch.cat([full, self.up1(half)], 1)))
        return x + self.leave(full)  # type: ignore[no-any-return]


class GPT2(nn.Module):
    """GPT-2's blocks: LayerNorm with gain and bias, learned positions, queries to values in one.

    It maps tokens of shape ``(n, length)`` to logits of shape ``(n, length, vocabulary)``; the head
    is a matrix of its own.

    Args:
        length: the longest window.
    """

    def __init__(
        self, *, vocabulary: int, length: int, dim: int = 64, depth: int = 3, heads: int = 4
    ) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocabulary, dim)
        self.positions = nn.Embedding(length, dim)
        self.blocks = nn.Sequential(*(_GPT2Block(dim, heads) for _ in range(depth)))
        self.norm = nn.LayerNorm(dim)
        self.head = nn.Linear(dim, vocabulary, bias=False)
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=0.02)
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits of shape ``(n, length, vocabulary)``."""
        x = self.tokens(tokens) + self.positions.weight[: tokens.size(1)]
        return self.head(self.norm(self.blocks(x)))  # type: ignore[no-any-return]


class _GPT2Block(nn.Module):
    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.qkv, self.mix = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.up, self.down = nn.Linear(dim, 4 * dim), nn.Linear(4 * dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        n, length, dim = x.shape
        parts = self.qkv(self.norm1(x)).view(n, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        query, key, value = parts.unbind()
        mixed = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        x = x + self.mix(mixed.transpose(1, 2).reshape(n, length, dim))
        return x + self.down(F.gelu(self.up(self.norm2(x))))  # type: ignore[no-any-return]


class Recurrent(nn.Module):
    """An LSTM over tokens of shape ``(n, length)``; logits of ``(n, length, vocabulary)``.

    Args:
        vocabulary: number of different tokens.
        dim: width of a token.
        hidden: width of the state.
    """

    def __init__(self, *, vocabulary: int, dim: int = 64, hidden: int = 128) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocabulary, dim)
        self.lstm = nn.LSTM(dim, hidden, batch_first=True)
        self.head = nn.Linear(hidden, vocabulary)

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits of shape ``(n, length, vocabulary)``."""
        return self.head(self.lstm(self.tokens(tokens))[0])  # type: ignore[no-any-return]


class WordModel(nn.Module):
    """A perceptron on the last words: tokens ``(n, length)`` to logits ``(n, length, vocabulary)``.

    Args:
        context: how many words it sees.
        hidden: width of the first hidden layer; the second has ``dim``.
    """

    def __init__(
        self, *, vocabulary: int, dim: int = 48, context: int = 4, hidden: int = 128
    ) -> None:
        super().__init__()
        self.context = context
        self.tokens = nn.Embedding(vocabulary, dim)
        self.first = nn.Linear(context * dim, hidden)
        self.second = nn.Linear(hidden, dim)
        self.norm = nn.LayerNorm(dim)
        self.head = nn.Linear(dim, vocabulary)

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits of shape ``(n, length, vocabulary)``; before the first word there are zeros."""
        x = F.pad(self.tokens(tokens), (0, 0, self.context - 1, 0))
        seen = x.unfold(1, self.context, 1).flatten(2)
        return self.head(self.norm(F.gelu(self.second(F.gelu(self.first(seen))))))  # type: ignore[no-any-return]


class LoRA(nn.Module):
    """A frozen linear layer and a trained product of two thin matrices beside it.

    Args:
        scale: what the product is multiplied by.
    """

    def __init__(self, base: nn.Linear, *, rank: int = 8, scale: float = 2.0) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        self.lora_A = nn.Linear(base.in_features, rank, bias=False)
        self.lora_B = nn.Linear(rank, base.out_features, bias=False)
        nn.init.zeros_(self.lora_B.weight)
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        """The sum of the outputs of the layer and the product."""
        return self.base(x) + self.scale * self.lora_B(self.lora_A(x))  # type: ignore[no-any-return]


def with_lora(model: GPT2) -> GPT2:
    """Freeze a model, and put a trained product beside every linear layer of its blocks."""
    model.requires_grad_(False)
    for block in model.blocks:
        for name in ("qkv", "mix", "up", "down"):
            setattr(block, name, LoRA(getattr(block, name)))
    return model
