"""Real modules, each with the placement that was worked out by hand, and a way to train them."""

import math

import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize

from normball.norms import (
    RMS,
    Blocks,
    Column,
    Euclidean,
    Sign,
    Spectral,
    SpectralConv,
    Transposed,
)
from tests.groups.models import (
    Adapted,
    AdaptedTable,
    Cell,
    Conv1D,
    HeadBias,
    Language,
    Masked,
    OwnLinear,
    Pair,
    Recurrent,
    Response,
    Symmetric,
    Vision,
    Window,
    old_weight_norm,
)
from tests.groups.places import (
    BIAS,
    CONV,
    FRAMED_TABLE,
    HIDDEN,
    INPUT,
    INPUT_CONV,
    OUTPUT,
    SCORE,
    TABLE,
    VECTOR,
    Case,
    hidden,
    on,
    on_tokens,
    residual,
)

CASES = [
    Case("one linear", lambda: nn.Linear(3, 2), {"weight": OUTPUT, "bias": BIAS}, on(4, 3)),
    Case(
        "three linears",
        lambda: nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 1), nn.Linear(1, 2)),
        {
            "0.weight": INPUT,
            "0.bias": BIAS,
            "1.weight": HIDDEN,  # one long dimension, but a layer
            "1.bias": BIAS,
            "2.weight": OUTPUT,
            "2.bias": BIAS,
        },
        on(4, 3),
    ),
    Case(
        "convolutions",
        lambda: nn.Sequential(
            nn.Conv1d(2, 4, 3, bias=False),
            nn.BatchNorm1d(4),
            nn.Conv1d(4, 4, 1, bias=False),
            nn.InstanceNorm1d(4, affine=True),
            nn.Unflatten(2, (4, 4)),
            nn.Conv2d(4, 6, 2, bias=False),
            nn.GroupNorm(2, 6),
            nn.Unflatten(3, (3, 1)),
            nn.Conv3d(6, 6, (2, 1, 1), bias=False),
            nn.LayerNorm((6, 2, 3, 1)),
            nn.PReLU(6),
            nn.Conv3d(6, 1, 1),
        ),
        {
            "0.weight": INPUT_CONV,
            "1.weight": VECTOR,
            "1.bias": BIAS,
            "2.weight": CONV,
            "3.weight": VECTOR,
            "3.bias": BIAS,
            "5.weight": CONV,
            "6.weight": VECTOR,
            "6.bias": BIAS,
            "8.weight": CONV,
            "9.weight": VECTOR,
            "9.bias": BIAS,
            "10.weight": VECTOR,
            "11.weight": OUTPUT,
            "11.bias": BIAS,
        },
        on(2, 2, 18),
    ),
    Case(
        "grouped and depthwise",
        lambda: nn.Sequential(
            nn.Conv2d(4, 8, 3, groups=2, bias=False),
            nn.Conv2d(8, 8, 3, groups=8, bias=False),
            Response(8),
            nn.Conv2d(8, 6, 1, groups=2, bias=False),
        ),
        {
            "0.weight": ("input", Blocks(SpectralConv(scale="input"), 2), 1.0),
            "1.weight": hidden(Blocks(SpectralConv(), 8)),
            "2.gamma": VECTOR,
            "2.beta": VECTOR,
            "2.temperature": VECTOR,
            "3.weight": OUTPUT,
        },
        on(2, 4, 6, 6),
    ),
    Case(
        "transposed convolutions",
        lambda: nn.Sequential(
            nn.ConvTranspose1d(2, 4, 3, bias=False),
            nn.ConvTranspose1d(4, 6, 2, groups=2, bias=False),
            nn.ConvTranspose1d(6, 4, 2, bias=False),
            nn.ConvTranspose1d(4, 2, 2, groups=2, bias=False),
        ),
        {
            "0.weight": ("input", Transposed(SpectralConv(scale="input")), 1.0),
            "1.weight": hidden(Transposed(Blocks(SpectralConv(), 2, dim=1))),
            "2.weight": hidden(Transposed(SpectralConv())),
            "3.weight": ("output", Transposed(Blocks(Sign(), 2, dim=1)), 32.0),
        },
        on(2, 2, 5),
    ),
    Case(
        "vision transformer",
        Vision,
        {
            "cls_token": ("embedding", RMS(), 1.0),
            "register_tokens": FRAMED_TABLE,
            "pos_embed": FRAMED_TABLE,
            "patch_embed.weight": INPUT_CONV,
            "patch_embed.bias": BIAS,
            **residual("blocks.0"),
            "blocks.0.attn.bias_k": BIAS,
            "blocks.0.attn.bias_v": BIAS,
            "norm.weight": VECTOR,
            "head.weight": OUTPUT,
            "head.bias": BIAS,
        },
        on(2, 3, 4, 4),
    ),
    Case(
        "language model",
        lambda: Language(tied=False),
        {"wte.weight": TABLE, "wpe.weight": TABLE, **residual("block"), "lm_head.weight": OUTPUT},
        on_tokens(2, 6),
    ),
    Case(
        "tied language model",
        lambda: Language(tied=True, position="raw"),
        {"positional_embedding": TABLE, "wte.weight": OUTPUT, **residual("block")},
        on_tokens(2, 6),
    ),
    Case(
        "attention with other keys",
        lambda: Cell(nn.MultiheadAttention(4, 2, kdim=3, vdim=5)),
        {
            "cell.q_proj_weight": SCORE,
            "cell.k_proj_weight": SCORE,
            "cell.v_proj_weight": HIDDEN,
            "cell.in_proj_bias": BIAS,
            "cell.out_proj.weight": HIDDEN,
            "cell.out_proj.bias": BIAS,
        },
        lambda m: m.cell(torch.randn(2, 4), torch.randn(6, 3), torch.randn(6, 5))[0],
    ),
    Case(
        "LSTM with projection",
        lambda: Recurrent(nn.LSTM(3, 6, proj_size=4), 4),
        {
            "rnn.weight_ih_l0": hidden(Blocks(Spectral(), 4)),
            "rnn.weight_hh_l0": hidden(Blocks(Spectral(), 4)),
            "rnn.weight_hr_l0": HIDDEN,
            "rnn.bias_ih_l0": BIAS,
            "rnn.bias_hh_l0": BIAS,
            "head.weight": OUTPUT,
            "head.bias": BIAS,
        },
        on(5, 2, 3),
    ),
    Case(
        "GRU, both ways",
        lambda: Recurrent(nn.GRU(3, 4, bidirectional=True, bias=False), 8),
        {
            "rnn.weight_ih_l0": hidden(Blocks(Spectral(), 3)),
            "rnn.weight_hh_l0": hidden(Blocks(Spectral(), 3)),
            "rnn.weight_ih_l0_reverse": hidden(Blocks(Spectral(), 3)),
            "rnn.weight_hh_l0_reverse": hidden(Blocks(Spectral(), 3)),
            "head.weight": OUTPUT,
            "head.bias": BIAS,
        },
        on(5, 2, 3),
    ),
    Case(
        "RNN behind a linear",
        lambda: nn.Sequential(nn.Linear(3, 5), Cell(nn.RNN(5, 4, bias=False))),
        {
            "0.weight": INPUT,
            "0.bias": BIAS,
            "1.cell.weight_ih_l0": HIDDEN,
            "1.cell.weight_hh_l0": HIDDEN,
        },
        on(5, 2, 3),
    ),
    *[
        Case(
            type(cell()).__name__,
            lambda cell=cell: Cell(cell()),
            {"cell.weight_ih": hidden(norm), "cell.weight_hh": hidden(norm)}
            | {"cell.bias_ih": BIAS, "cell.bias_hh": BIAS},
            on(2, 3),
        )
        for cell, norm in [
            (lambda: nn.LSTMCell(3, 4), Blocks(Spectral(), 4)),
            (lambda: nn.GRUCell(3, 4), Blocks(Spectral(), 3)),
            (lambda: nn.RNNCell(3, 4), Spectral()),
        ]
    ],
    Case(
        "weight norm",
        lambda: nn.Sequential(
            parametrizations.weight_norm(nn.Conv1d(2, 4, 2)),
            parametrizations.weight_norm(nn.Conv1d(4, 4, 2, groups=2), dim=None),
            parametrizations.weight_norm(nn.Linear(4, 4)),
        ),
        {
            "0.bias": BIAS,
            "0.parametrizations.weight.original0": VECTOR,
            "0.parametrizations.weight.original1": INPUT_CONV,
            "1.bias": BIAS,
            "1.parametrizations.weight.original0": VECTOR,
            "1.parametrizations.weight.original1": hidden(Blocks(SpectralConv(), 2)),
            "2.bias": BIAS,
            "2.parametrizations.weight.original0": VECTOR,
            "2.parametrizations.weight.original1": OUTPUT,
        },
        on(2, 2, 6),
    ),
    Case(
        "weight norm of a recurrent matrix",
        lambda: parametrizations.weight_norm(nn.LSTMCell(3, 4, bias=False), "weight_hh"),
        {
            "weight_ih": hidden(Blocks(Spectral(), 4)),
            "parametrizations.weight_hh.original0": VECTOR,
            "parametrizations.weight_hh.original1": hidden(Blocks(Spectral(), 4)),
        },
        lambda m: m(torch.randn(2, 3), (torch.randn(2, 4), torch.randn(2, 4)))[0],
    ),
    Case(
        "old weight norm",
        lambda: nn.Sequential(nn.Linear(3, 4), old_weight_norm(), nn.Linear(4, 2)),
        {
            "0.weight": INPUT,
            "0.bias": BIAS,
            "1.bias": BIAS,
            "1.weight_g": VECTOR,
            "1.weight_v": HIDDEN,
            "2.weight": OUTPUT,
            "2.bias": BIAS,
        },
        on(4, 3),
    ),
    Case(
        "other parametrisations",
        lambda: nn.Sequential(
            parametrizations.spectral_norm(nn.Linear(3, 4)),
            parametrizations.orthogonal(nn.Linear(4, 4, bias=False)),
            parametrize.register_parametrization(
                nn.Linear(4, 4, bias=False), "weight", Symmetric()
            ),
            nn.utils.spectral_norm(nn.Linear(4, 2, bias=False)),
        ),
        {
            "0.bias": BIAS,
            "0.parametrizations.weight.original": INPUT,
            "1.parametrizations.weight.original": ("hidden", Euclidean(), 5.0),
            "2.parametrizations.weight.original": HIDDEN,
            "3.weight_orig": OUTPUT,
        },
        on(4, 3),
    ),
    Case(
        "low-rank pairs",
        lambda: nn.Sequential(
            Adapted(nn.Linear(3, 5, bias=False), raw=False),
            nn.Linear(5, 5, bias=False),
            Adapted(nn.Linear(5, 2, bias=False), raw=True),
        ),
        {
            "0.lora_A.default.weight": HIDDEN,
            "0.lora_B.default.weight": ("hidden", Spectral(), 5 * math.sqrt(2 / 5)),
            "1.weight": HIDDEN,
            "2.lora_A": HIDDEN,
            "2.lora_B": HIDDEN,
        },
        on(4, 3),
    ),
    Case(
        "low-rank pair of a table",
        lambda: nn.Sequential(AdaptedTable(), nn.Linear(4, 2, bias=False)),
        {
            "0.lora_embedding_A.default": ("embedding", Column(), 1.0),
            "0.lora_embedding_B.default": HIDDEN,
            "1.weight": OUTPUT,
        },
        on_tokens(3, 2),
    ),
    Case(
        "weights stored input first",
        lambda: nn.Sequential(Conv1D(4, 3), Conv1D(6, 4), Conv1D(2, 6)),
        {
            "0.weight": ("input", Transposed(Spectral(scale="input")), 1.0),
            "0.bias": BIAS,
            "1.weight": hidden(Transposed(Spectral())),
            "1.bias": BIAS,
            "2.weight": ("output", Transposed(Sign()), 32.0),
            "2.bias": BIAS,
        },
        on(2, 3),
    ),
    Case(
        "layers that state their sizes",
        lambda: nn.Sequential(
            OwnLinear(3, 4), OwnLinear(4, 6, input_first=True), OwnLinear(6, 6), OwnLinear(6, 2)
        ),
        {
            "0.weight": INPUT,
            "1.weight": hidden(Transposed(Spectral())),
            "2.weight": HIDDEN,
            "3.weight": OUTPUT,
        },
        on(2, 3),
    ),
    Case(
        "bilinear",
        Pair,
        {
            "left.weight": INPUT,
            "left.bias": BIAS,
            "both.weight": HIDDEN,
            "both.bias": BIAS,
            "head.weight": OUTPUT,
            "head.bias": BIAS,
        },
        on(2, 3),
    ),
    Case(
        "a bag of words",
        lambda: nn.Sequential(nn.EmbeddingBag(11, 4), nn.Linear(4, 2, bias=False)),
        {"0.weight": TABLE, "1.weight": OUTPUT},
        on_tokens(3, 2),
    ),
    Case(
        "biases of two dimensions and a table called bias",
        lambda: nn.Sequential(
            HeadBias(), nn.Flatten(), nn.Linear(6, 18), nn.Unflatten(1, (9, 2)), Window()
        ),
        {
            "0.u_bias": BIAS,
            "2.weight": OUTPUT,
            "2.bias": BIAS,
            "4.relative_position_bias_table": TABLE,
        },
        on(2, 2, 3),
    ),
    Case(
        "positions before the first layer",
        Masked,
        {
            "position_embeddings.weight": TABLE,
            "patch.weight": INPUT,
            "patch.bias": BIAS,
            "head.weight": OUTPUT,
            "head.bias": BIAS,
        },
        on(2, 4, 3),
    ),
]
