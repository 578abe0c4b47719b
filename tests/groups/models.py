"""Small modules of every kind, for `cases.py` to place."""

import torch
from torch import nn


class Residual(nn.Module):
    """A transformer block with torch's attention and a layer scale of four dimensions."""

    def __init__(self, width: int, **attention) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.attn = nn.MultiheadAttention(width, 2, batch_first=True, **attention)
        self.gamma = nn.Parameter(torch.ones(1, 1, width))
        self.up = nn.Linear(width, 2 * width)
        self.down = nn.Linear(2 * width, width, bias=False)

    def forward(self, x):
        y = self.norm(x)
        x = x + self.attn(y, y, y, need_weights=False)[0]
        return x + self.gamma * self.down(torch.relu(self.up(x)))


class Vision(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cls_token = nn.Parameter(torch.randn(1, 1, 8))
        self.register_tokens = nn.Parameter(torch.randn(1, 3, 8))
        self.pos_embed = nn.Parameter(torch.randn(1, 8, 8))
        self.patch_embed = nn.Conv2d(3, 8, 2, 2)
        self.blocks = nn.ModuleList([Residual(8, add_bias_kv=True)])
        self.norm = nn.RMSNorm(8)
        self.head = nn.Linear(8, 5)

    def forward(self, x):
        x = self.patch_embed(x).flatten(2).mT
        extra = torch.cat([self.cls_token, self.register_tokens], 1).expand(len(x), -1, -1)
        x = torch.cat([extra, x], 1) + self.pos_embed
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x)[:, 0])


class Language(nn.Module):
    def __init__(self, tied: bool, position: str = "table") -> None:
        super().__init__()
        self.wte = nn.Embedding(11, 8)
        if position == "table":
            self.wpe = nn.Embedding(6, 8)
        else:
            self.positional_embedding = nn.Parameter(torch.randn(6, 8))
        self.block = Residual(8, kdim=8, vdim=8)
        self.lm_head = nn.Linear(8, 11, bias=False)
        if tied:
            self.lm_head.weight = self.wte.weight

    def forward(self, tokens):
        x = self.wte(tokens)
        table = self.wpe.weight if hasattr(self, "wpe") else self.positional_embedding
        return self.lm_head(self.block(x + table))


class Recurrent(nn.Module):
    def __init__(self, layer: nn.Module, width: int) -> None:
        super().__init__()
        self.rnn = layer
        self.head = nn.Linear(width, 2)

    def forward(self, x):
        return self.head(self.rnn(x)[0])


class Cell(nn.Module):
    def __init__(self, cell: nn.Module) -> None:
        super().__init__()
        self.cell = cell

    def forward(self, x):
        state = self.cell(x)
        return state[0] if isinstance(state, tuple) else state


class Pair(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.left = nn.Linear(3, 4)
        self.both = nn.Bilinear(4, 4, 5)
        self.head = nn.Linear(5, 2)

    def forward(self, x):
        x = self.left(x)
        return self.head(self.both(x, x))


class Conv1D(nn.Module):
    """A linear layer with its weight stored input first, as in the transformers package."""

    def __init__(self, nf: int, nx: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(nx, nf))
        self.bias = nn.Parameter(torch.zeros(nf))

    def forward(self, x):
        return x @ self.weight + self.bias


class OwnLinear(nn.Module):
    """A linear layer of somebody else: it says its sizes."""

    def __init__(self, in_features: int, out_features: int, input_first: bool = False) -> None:
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        shape = (in_features, out_features) if input_first else (out_features, in_features)
        self.weight = nn.Parameter(torch.randn(shape))

    def forward(self, x):
        return x @ (self.weight if self.weight.shape[0] == self.in_features else self.weight.mT)


class Adapted(nn.Module):
    """A frozen layer with a trained low-rank pair, as modules or as raw matrices."""

    def __init__(self, layer: nn.Linear, raw: bool) -> None:
        super().__init__()
        self.base_layer = layer.requires_grad_(False)
        out_features, in_features = layer.weight.shape
        if raw:
            self.lora_A = nn.Parameter(torch.randn(2, in_features))
            self.lora_B = nn.Parameter(torch.randn(out_features, 2))
        else:
            self.lora_A = nn.ModuleDict({"default": nn.Linear(in_features, 2, bias=False)})
            self.lora_B = nn.ModuleDict({"default": nn.Linear(2, out_features, bias=False)})

    def forward(self, x):
        y = self.base_layer(x)
        if isinstance(self.lora_A, nn.Parameter):
            return y + x @ self.lora_A.mT @ self.lora_B.mT
        return y + self.lora_B["default"](self.lora_A["default"](x))


class AdaptedTable(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.base_layer = nn.Embedding(11, 4).requires_grad_(False)
        self.lora_embedding_A = nn.ParameterDict({"default": torch.randn(2, 11)})
        self.lora_embedding_B = nn.ParameterDict({"default": torch.randn(4, 2)})

    def forward(self, tokens):
        factor = self.lora_embedding_A["default"][:, tokens].movedim(0, -1)
        return self.base_layer(tokens) + factor @ self.lora_embedding_B["default"].mT


class Response(nn.Module):
    """Global response normalisation: scales of four dimensions, none called a bias."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(1, 1, 1, width))
        self.beta = nn.Parameter(torch.zeros(1, 1, 1, width))
        self.temperature = nn.Parameter(torch.ones(()))

    def forward(self, x):
        x = x.movedim(1, -1)
        return (x + self.temperature * (self.gamma * x + self.beta)).movedim(-1, 1)


class HeadBias(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.u_bias = nn.Parameter(torch.zeros(2, 3))

    def forward(self, x):
        return x + self.u_bias


class Window(nn.Module):
    """A table of relative positions, as in windowed attention."""

    def __init__(self) -> None:
        super().__init__()
        self.relative_position_bias_table = nn.Parameter(torch.zeros(9, 2))

    def forward(self, x):
        return x + self.relative_position_bias_table


class Masked(nn.Module):
    """A position table as an Embedding, registered before the first layer."""

    def __init__(self) -> None:
        super().__init__()
        self.position_embeddings = nn.Embedding(4, 6)
        self.patch = nn.Linear(3, 6)
        self.head = nn.Linear(6, 2)

    def forward(self, x):
        return self.head(self.patch(x) + self.position_embeddings.weight)


def mlp() -> nn.Module:
    """An input, a hidden and an output layer, and gains."""
    return nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 4), nn.Linear(4, 2))


class Symmetric(nn.Module):
    def forward(self, x):
        return x.triu() + x.triu(1).mT


def old_weight_norm() -> nn.Module:
    """The deprecated spelling, which checkpoints still hold."""
    layer = nn.Linear(4, 4)
    weight = layer.weight.detach()
    del layer._parameters["weight"]
    layer.weight_g = nn.Parameter(weight.norm(dim=1, keepdim=True))
    layer.weight_v = nn.Parameter(weight)

    def put(module, _):
        v = module.weight_v
        module.weight = module.weight_g * v / v.norm(dim=1, keepdim=True)

    put(layer, None)
    layer.register_forward_pre_hook(put)
    return layer
