"""The rules that find the role of a parameter, and how it stores a weight."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear
from torch.nn.utils.parametrizations import _Orthogonal
from torch.nn.utils.parametrize import is_parametrized

from normball.groups.slots import Slot
from normball.groups.storage import Entries, Raw, Stack, Storage, Table, Weight


@dataclass(frozen=True)
class Kind:
    """What a rule found about a parameter."""

    role: str
    """Its role unless it turns out to be the first or the last layer."""
    storage: Storage
    rule: str
    """As the table prints it."""
    spot: str = ""
    """Its part in the order of layers: a `layer` can be the first or the last one; `inside` and
    `table` count in the order, but never get these roles; anything else does not count."""
    share: float = 1.0
    """Its radius divided by that of its role."""


def kind_of(slot: Slot) -> Kind | None:
    """Return what the first rule that knows the place finds; None if no rule knows it."""
    return next((kind for rule in RULES if (kind := rule(slot)) is not None), None)


# The last part of a name; all of them hold one row per position or token.
_POSITIONS = {
    "pos_emb",
    "pos_embed",
    "pos_embedding",
    "pos_embeddings",
    "position_embedding",
    "position_embeddings",
    "positional_embedding",
    "positional_embeddings",
    "abs_pos_embed",
    "absolute_pos_embed",
    "rel_pos_h",
    "rel_pos_w",
    "relative_position_bias_table",
}
_TOKENS = {
    "cls_token",
    "cls_tokens",
    "class_token",
    "class_embedding",
    "dist_token",
    "distillation_token",
    "latents",
    "mask_token",
    "query_tokens",
    "reg_token",
    "reg_tokens",
    "register_token",
    "register_tokens",
}
_WEIGHT = {"weight", "weight_v", "weight_orig"}
_EXPERTS = {"gate_up_proj", "gate_proj", "up_proj", "down_proj"}
_RATES = {"A_log", "A_logs"}
# Layers whose outputs are multiplied with each other, by name.
_SCORES = {"query", "key", "query_proj", "key_proj", "q", "k", "q_proj", "k_proj"}
_SCORES |= {"to_q", "to_k", "q_lin", "k_lin", "wq", "wk", "q_proj_weight", "k_proj_weight"}
_BOTH = 0.5
# A table of at most `_ROWS` rows has the radius of its role; no table has more than `_MOST` times
# that.
_ROWS, _MOST = 64, 4.0
_LORA = {"lora_a", "lora_b"}
_OUTER = {"hada_w1_a", "hada_w2_a", "lokr_w1_a", "lokr_w2_a"}
_FACTORS = _OUTER | {"hada_w1_b", "hada_w2_b", "hada_t1", "hada_t2", "lokr_w1", "lokr_w2"}
_FACTORS |= {"lokr_w1_b", "lokr_w2_b", "lokr_t1", "lokr_t2"}
_LORA_TABLE = {"lora_embedding_a", "lora_embedding_b"}
# Factors of products, of which one starts at 0.
LOW_RANK = _LORA | _LORA_TABLE | _FACTORS


def _is_vector(shape: torch.Size) -> bool:
    return sum(size > 1 for size in shape) < 2


def _vector(slot: Slot, rule: str, role: str = "vector") -> Kind:
    return Kind(role, Raw(slot.shape), rule)


def _gain(slot: Slot) -> Kind | None:
    """Norm layers, whatever the shape."""
    if slot.tensor not in _WEIGHT:
        return None
    norms = (nn.LayerNorm, nn.RMSNorm, nn.GroupNorm, _NormBase)
    return _vector(slot, "gain of a norm layer") if isinstance(slot.module, norms) else None


def _weight_norm_length(slot: Slot) -> Kind | None:
    """The lengths `g` of a weight-normed layer."""
    if slot.tensor.endswith("_g") and _is_vector(slot.shape):
        return _vector(slot, "weight norm, length")
    return None


def _named_table(slot: Slot) -> Kind | None:
    """Position tables and tokens held as raw parameters, by name."""
    if slot.tensor in _POSITIONS:
        kind = Kind("embedding", Table(slot.shape), "position table, by name")
    elif slot.tensor in _TOKENS:
        kind = Kind("embedding", Table(slot.shape), "token, by name")
    else:
        return None
    return kind if kind.storage.norm("embedding") is not None else None


def _bias(slot: Slot) -> Kind | None:
    """Biases of any shape (`bias` or `biases` is a word of the name), and tensors of one dim."""
    if {"bias", "biases"} & set(slot.tensor.split("_")):
        return _vector(slot, "bias", "bias")
    return _vector(slot, "one dimension") if slot.parameter.ndim < 2 else None


def _orthogonal(slot: Slot) -> Kind | None:
    """What `parametrizations.orthogonal` makes a matrix from; its diagonal can hold signs."""
    module, tensor = slot.module, slot.tensor
    if not is_parametrized(module, tensor):
        return None
    steps = module.get_submodule("parametrizations").get_submodule(tensor)
    if not any(isinstance(step, _Orthogonal) for step in steps.children()):
        return None
    return Kind("hidden", Entries(), "orthogonal parametrization", "inside")


def _adapter(slot: Slot) -> Kind | None:
    """Factors of `peft`'s LoHa, LoKr and OFT, by name."""
    path = set(slot.name.lower().split("."))
    if "oft_r" in path and slot.parameter.ndim == 2:
        return Kind("embedding", Table(slot.shape), "rotations, one row a block")
    if not path & _FACTORS:
        return None
    if slot.parameter.ndim != 2:
        return Kind("hidden", Weight(True), "factor of an adapter, kernel")
    if not path & _OUTER:
        return Kind("hidden", Weight(), "factor of an adapter")
    rank, width = sorted(slot.shape)
    return Kind("hidden", Weight(), "factor of an adapter, outer", share=math.sqrt(rank / width))


def _lora(slot: Slot) -> Kind | None:
    """Low-rank pairs, by name: layers, or raw matrices `(r, d_in)` and `(d_out, r)`."""
    path = {part.lower() for part in slot.name.split(".")}
    if not path & (_LORA | _LORA_TABLE):
        return None
    if "lora_embedding_a" in path or ("lora_a" in path and isinstance(slot.module, nn.Embedding)):
        return Kind("embedding", Weight(), "low-rank factor of a table")
    layer = _convolution(slot) or _linear(slot)
    if layer is None and slot.parameter.ndim != 2:
        return None
    storage = layer.storage if layer else Weight()
    if "lora_b" not in path:
        return Kind("hidden", storage, "low-rank factor")
    # The first factor, random at the start, multiplies a step of the second by about 1 / share.
    rank, width = sorted(slot.shape[:2])
    return Kind("hidden", storage, "low-rank factor, second", share=math.sqrt(rank / width))


def _embedding(slot: Slot) -> Kind | None:
    if not (isinstance(slot.module, nn.Embedding | nn.EmbeddingBag) and slot.tensor in _WEIGHT):
        return None
    # A position table does not count as an input: the layer after it can still be the first.
    if _POSITIONS & set(slot.name.split(".")):
        return Kind("embedding", Table(slot.shape), "embedding table")
    share = min(max(1.0, math.sqrt(slot.shape[0] / _ROWS)), _MOST)
    return Kind("embedding", Table(slot.shape), "embedding table", "table", share)


def _convolution(slot: Slot) -> Kind | None:
    if not (isinstance(slot.module, _ConvNd) and slot.tensor in _WEIGHT):
        return None
    transposed = isinstance(slot.module, _ConvTransposeNd)
    groups = slot.module.groups
    rule = "transposed convolution" if transposed else "convolution"
    if groups > 1:
        rule += f", {groups} groups"
    return Kind("hidden", Weight(True, groups, transposed), rule, "layer")


def _linear(slot: Slot) -> Kind | None:
    """Linear layers: by type, by the sizes a module states, `Conv1D` of transformers by name."""
    module = slot.module
    if slot.tensor not in _WEIGHT or slot.parameter.ndim != 2:
        return None
    if isinstance(module, nn.Linear):
        # The output projection of torch's attention, which is not the last layer of a network.
        inside = isinstance(module, NonDynamicallyQuantizableLinear)
        return _scored(slot, Weight(), "linear", "inside" if inside else "layer")
    if any(base.__name__ == "Conv1D" for base in type(module).__mro__):
        return _scored(slot, Weight(transposed=True), "linear, stored (in, out)")
    sizes = (getattr(module, "out_features", None), getattr(module, "in_features", None))
    if slot.shape == sizes:
        return _scored(slot, Weight(), "linear, by its sizes")
    if slot.shape == sizes[::-1]:
        return _scored(slot, Weight(transposed=True), "linear, stored (in, out)")
    return None


def _scored(slot: Slot, storage: Storage, rule: str, spot: str = "layer") -> Kind:
    """A linear layer; a query or key, by its name, gets half the radius, because both move."""
    if _SCORES & {slot.tensor, *slot.name.split(".")}:
        return Kind("hidden", storage, f"{rule}, query or key", spot, _BOTH)
    return Kind("hidden", storage, rule, spot)


def _router(slot: Slot) -> Kind | None:
    """The layer that chooses experts, by the name of its class: `(experts, d_in)`."""
    if slot.tensor not in _WEIGHT or slot.parameter.ndim != 2:
        return None
    if any(base.__name__.endswith("Router") for base in type(slot.module).__mro__):
        return Kind("hidden", Weight(), "router of experts", "inside")
    return None


def _experts(slot: Slot) -> Kind | None:
    """Expert stacks of modules that state their layout, as those of transformers do."""
    transposed = getattr(slot.module, "is_transposed", None)
    if slot.tensor not in _EXPERTS or slot.parameter.ndim != 3 or not isinstance(transposed, bool):
        return None
    # Interleaved gates and values are not blocks: they share one ball.
    apart = slot.tensor == "gate_up_proj" and getattr(slot.module, "is_concatenated", False)
    rule = "experts, stored (in, out)" if transposed else "experts"
    return Kind("hidden", Stack(2 if apart else 1, transposed), rule, "inside")


def _bilinear(slot: Slot) -> Kind | None:
    """A stack of matrices, one per output."""
    if isinstance(slot.module, nn.Bilinear) and slot.tensor in _WEIGHT:
        return Kind("hidden", Weight(), "bilinear, one matrix per output", "inside")
    return None


def _attention(slot: Slot) -> Kind | None:
    """Projections of `nn.MultiheadAttention`, whose biases and `out_proj` other rules know."""
    if not isinstance(slot.module, nn.MultiheadAttention):
        return None
    if slot.tensor.startswith("in_proj_weight"):
        return Kind("hidden", Weight(blocks=3), "attention, query key value", "inside")
    if slot.tensor.startswith(("q_proj_weight", "k_proj_weight", "v_proj_weight")):
        return _scored(slot, Weight(), "attention", "inside")
    return None


def _recurrent(slot: Slot) -> Kind | None:
    """Stacked gates of LSTM, GRU and RNN, layers and cells; projections of an LSTM."""
    if not isinstance(slot.module, nn.RNNBase | nn.RNNCellBase):
        return None
    if slot.tensor.startswith(("weight_ih", "weight_hh")):
        gates = slot.shape[0] // slot.module.hidden_size
        return Kind("hidden", Weight(blocks=gates), f"recurrent, {gates} gates", "inside")
    if slot.tensor.startswith("weight_hr"):
        return Kind("hidden", Weight(), "recurrent, projection", "inside")
    return None


def _rates(slot: Slot) -> Kind | None:
    """Decay rates of a state space model, by name: one per channel and state, not a matrix."""
    return _vector(slot, "state space, rates") if slot.tensor in _RATES else None


def _scale(slot: Slot) -> Kind | None:
    """Scales of any shape with at most one dimension larger than 1, `(1, 1, 1, C)` for instance."""
    return _vector(slot, "one long dimension") if _is_vector(slot.shape) else None


RULES: tuple[Callable[[Slot], Kind | None], ...] = (
    _gain,
    _weight_norm_length,
    _named_table,
    _bias,
    _orthogonal,
    _lora,
    _adapter,
    _embedding,
    _convolution,
    _linear,
    _router,
    _experts,
    _bilinear,
    _attention,
    _recurrent,
    _rates,
    _scale,
)
