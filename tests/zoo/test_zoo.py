"""Models people train: everything placed by the right norm, and trained by the defaults."""

import pytest
import torch

from normball import param_groups
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
from tests.zoo import data, models
from tests.zoo.models import ZOO, Entry
from tests.zoo.train import train


@pytest.mark.parametrize("entry", ZOO, ids=str)
def test_everything_is_placed_and_the_loss_falls(entry: Entry):
    outcome = train(entry, seed=0)
    assert outcome.unplaced == 0
    assert outcome.fall >= (0.1 if entry.name == "LoRA" else 0.7)
    assert 0 < outcome.trained <= outcome.parameters


@pytest.mark.parametrize("entry", ZOO, ids=str)
def test_the_plan_shows_every_parameter(entry: Entry):
    with torch.device("meta"):
        model = entry.build()
    header, *lines = str(param_groups(model)).splitlines()
    assert header.split() == ["name", "shape", "role", "norm", "radius", "rule"]
    assert [line.split()[0] for line in lines] == [name for name, _ in model.named_parameters()]


TABLE = Column(transposed=True)
# Worked out from how each model uses the parameter in its forward pass.
PLACES: dict[str, dict[str, tuple[str, Norm]]] = {
    "GPT-2": {  # x @ weight, so (in, out); one matrix for query, key and value
        "transformer.wte.weight": ("output", Sign()),
        "transformer.wpe.weight": ("embedding", TABLE),
        "transformer.h.0.attn.c_attn.weight": ("hidden", Transposed(Spectral())),
        "transformer.h.0.mlp.c_proj.weight": ("hidden", Transposed(Spectral())),
    },
    "Llama": {
        "model.embed_tokens.weight": ("embedding", TABLE),
        "model.layers.0.self_attn.k_proj.weight": ("hidden", Spectral()),
        "model.norm.weight": ("vector", RMS()),
        "lm_head.weight": ("output", Sign()),
    },
    "Mixtral": {  # linear(x, stack[expert]), gate above up
        "model.layers.0.mlp.gate.weight": ("hidden", Spectral()),
        "model.layers.0.mlp.experts.gate_up_proj": ("hidden", Blocks(Spectral(), 2, dim=1)),
        "model.layers.0.mlp.experts.down_proj": ("hidden", Spectral()),
    },
    "T5": {  # one row per bucket of distances, one column per head
        "shared.weight": ("output", Sign()),
        "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight": (
            "embedding",
            TABLE,
        ),
        "decoder.block.1.layer.2.DenseReluDense.wo.weight": ("hidden", Spectral()),
    },
    "ViT": {
        "vit.embeddings.cls_token": ("embedding", RMS()),
        "vit.embeddings.position_embeddings": ("embedding", Transposed(TABLE)),
        "vit.embeddings.patch_embeddings.projection.weight": ("input", SpectralConv("input")),
        "classifier.weight": ("output", Sign()),
        "classifier.bias": ("bias", RMS()),
    },
    "Whisper": {
        "model.encoder.conv1.weight": ("input", SpectralConv("input")),
        "model.encoder.conv2.weight": ("hidden", SpectralConv()),
        "model.decoder.embed_tokens.weight": ("output", Sign()),
        "model.decoder.embed_positions.weight": ("embedding", TABLE),
    },
    "Mamba": {  # 128 channels with a kernel each; rates and feed-through act entry by entry
        "backbone.layers.0.mixer.conv1d.weight": ("hidden", Blocks(SpectralConv(), 128)),
        "backbone.layers.0.mixer.A_log": ("vector", RMS()),
        "backbone.layers.0.mixer.D": ("vector", RMS()),
        "backbone.layers.0.mixer.in_proj.weight": ("hidden", Spectral()),
        "backbone.embeddings.weight": ("output", Sign()),
    },
    "U-Net": {  # kernels (c_in, c_out, 2, 2)
        "up1.weight": ("hidden", Transposed(SpectralConv())),
        "head.weight": ("output", Sign()),
    },
    "LSTM": {"rnn.weight_hh_l1": ("hidden", Blocks(Spectral(), 4))},
    "Encoder": {
        "embed.weight": ("input", Spectral("input")),
        "encoder.layers.0.self_attn.in_proj_weight": ("hidden", Blocks(Spectral(), 3)),
    },
    "LoRA": {
        "model.layers.0.self_attn.q_proj.lora_A.weight": ("hidden", Spectral()),
        "model.layers.0.self_attn.q_proj.lora_B.weight": ("hidden", Spectral()),
    },
}


@pytest.mark.parametrize("name", PLACES)
def test_layouts_are_read_right(name: str):
    entry = next(entry for entry in ZOO if entry.name == name)
    rows = {row.name: (row.role, row.norm) for row in param_groups(entry.build()).rows}
    assert {key: rows[key] for key in PLACES[name]} == PLACES[name]


def test_lora_trains_its_pairs_alone():
    model = models.adapted_llama()
    rows = param_groups(model).rows
    trained = {row.name for row in rows if not row.rule.endswith(", frozen")}
    assert trained == {row.name for row in rows if "lora_" in row.name}
    assert len(trained) == 2 * 7 * 3


def test_the_batches_are_real():
    assert bytes(data.text(8, 64).flatten().tolist()).startswith(b".. _breast_cancer_dataset:")
    images, classes = data.digits(64, 16)
    assert images.shape == (64, 1, 16, 16)
    assert (images.min(), images.max()) == (-1, 1)
    assert classes[:10].tolist() == list(range(10))
    assert bytes(data.spelled(classes)[3].tolist()) == b"three\x03"
