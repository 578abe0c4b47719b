"""Architectures people train, small, each with the loss of one fixed batch of real data."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.zoo import data

Loss = Callable[[nn.Module], Tensor]


@dataclass(frozen=True)
class Entry:
    """A model of the zoo."""

    name: str
    about: str
    build: Callable[[], nn.Module]
    loss: Loss

    def __str__(self) -> str:
        return self.name


def next_byte(model: nn.Module) -> Tensor:
    tokens = data.text(8, 64)
    return model(input_ids=tokens, labels=tokens).loss


def next_byte_of_logits(model: nn.Module) -> Tensor:
    tokens = data.text(8, 64)
    return F.cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())


def second_half(model: nn.Module) -> Tensor:
    """The next bytes of the text, from an encoder that has seen those before."""
    tokens = data.text(8, 64)
    return model(input_ids=tokens[:, :32], labels=tokens[:, 32:].contiguous()).loss


def class_of_images(model: nn.Module) -> Tensor:
    images, classes = data.digits(64, 16)
    return model(pixel_values=images, labels=classes).loss


def class_of(model: nn.Module) -> Tensor:
    images, classes = data.digits(64, 16)
    return F.cross_entropy(model(images), classes)


def class_of_rows(model: nn.Module) -> Tensor:
    """Images read as sequences of eight rows."""
    images, classes = data.digits(64)
    return F.cross_entropy(model(images[:, 0]), classes)


def spelled_classes(model: nn.Module) -> Tensor:
    """The name of a digit, letter by letter, from its image read as a spectrogram."""
    images, classes = data.digits(32, 16)
    names = data.spelled(classes)
    return model(input_features=images[:, 0], labels=names.masked_fill(names == 0, -100)).loss


def restored(model: nn.Module) -> Tensor:
    """Images from their noisy copies; the loss is a share of the images' own variance."""
    images, _ = data.digits(32, 16)
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
    return F.mse_loss(model(images + 0.5 * noise), images) / images.var()


# -- transformers, from their configurations -----------------------------------------------------

_TOKENS = {"vocab_size": 128, "bos_token_id": 1, "eos_token_id": 3, "pad_token_id": 0}


def gpt2() -> nn.Module:
    from transformers import GPT2Config, GPT2LMHeadModel

    drop = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    return GPT2LMHeadModel(
        GPT2Config(n_layer=3, n_embd=64, n_head=4, n_positions=64, **_TOKENS, **drop)
    )


def _llama_like() -> dict[str, object]:
    return _TOKENS | {
        "hidden_size": 64,
        "intermediate_size": 160,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 64,
    }


def llama() -> nn.Module:
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM(LlamaConfig(**_llama_like()))


def mixtral() -> nn.Module:
    from transformers import MixtralConfig, MixtralForCausalLM

    experts = {"num_local_experts": 4, "num_experts_per_tok": 2}
    return MixtralForCausalLM(MixtralConfig(**_llama_like(), **experts))


def t5() -> nn.Module:
    from transformers import T5Config, T5ForConditionalGeneration

    return T5ForConditionalGeneration(
        T5Config(
            d_model=64, d_kv=16, d_ff=160, num_layers=2, num_heads=4, dropout_rate=0.0,
            vocab_size=128, pad_token_id=0, eos_token_id=3, decoder_start_token_id=0,
        )
    )  # fmt: skip


def vit() -> nn.Module:
    from transformers import ViTConfig, ViTForImageClassification

    return ViTForImageClassification(
        ViTConfig(
            hidden_size=64, intermediate_size=160, num_hidden_layers=3, num_attention_heads=4,
            image_size=16, patch_size=4, num_channels=1, num_labels=10,
        )
    )  # fmt: skip


def whisper() -> nn.Module:
    from transformers import WhisperConfig, WhisperForConditionalGeneration

    return WhisperForConditionalGeneration(
        WhisperConfig(
            d_model=64, encoder_layers=2, decoder_layers=2, encoder_attention_heads=4,
            decoder_attention_heads=4, encoder_ffn_dim=160, decoder_ffn_dim=160, num_mel_bins=16,
            max_source_positions=8, max_target_positions=16, decoder_start_token_id=1, **_TOKENS,
        )
    )  # fmt: skip


def mamba() -> nn.Module:
    from transformers import MambaConfig, MambaForCausalLM

    return MambaForCausalLM(
        MambaConfig(hidden_size=64, num_hidden_layers=3, state_size=8, **_TOKENS)
    )


# -- plain torch ---------------------------------------------------------------------------------


class Residual(nn.Module):
    """Two convolutions with batch norm, beside the identity or a convolution of one tap."""

    def __init__(self, c_in: int, c_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(c_in, c_out, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(c_out)
        self.conv2 = nn.Conv2d(c_out, c_out, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(c_out)
        self.skip = nn.Identity() if c_in == c_out else nn.Conv2d(c_in, c_out, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x)))))
        return F.relu(y + self.skip(x))


def resnet() -> nn.Module:
    blocks = [Residual(16, 16, 1), Residual(16, 32, 2), Residual(32, 64, 2)]
    stem = [nn.Conv2d(1, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU()]
    return nn.Sequential(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))


class UNet(nn.Module):
    """Down by strided, up by transposed convolutions, with skips between equal sizes."""

    def __init__(self, widths: tuple[int, int, int] = (16, 32, 64)) -> None:
        super().__init__()
        first, second, third = widths
        self.stem = self.pair(1, first)
        self.down1 = nn.Conv2d(first, second, 2, 2)
        self.body1 = self.pair(second, second)
        self.down2 = nn.Conv2d(second, third, 2, 2)
        self.body2 = self.pair(third, third)
        self.up1 = nn.ConvTranspose2d(third, second, 2, 2)
        self.body3 = self.pair(2 * second, second)
        self.up2 = nn.ConvTranspose2d(second, first, 2, 2)
        self.body4 = self.pair(2 * first, first)
        self.head = nn.Conv2d(first, 1, 1)

    @staticmethod
    def pair(c_in: int, c_out: int) -> nn.Module:
        convolution = nn.Conv2d(c_in, c_out, 3, padding=1)
        return nn.Sequential(convolution, nn.GroupNorm(4, c_out), nn.GELU())

    def forward(self, x: Tensor) -> Tensor:
        high = self.stem(x)
        middle = self.body1(self.down1(high))
        low = self.body2(self.down2(middle))
        middle = self.body3(torch.cat([self.up1(low), middle], 1))
        return self.head(self.body4(torch.cat([self.up2(middle), high], 1)))


class Recurrent(nn.Module):
    """A language model by two layers of LSTM."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(128, 64)
        self.rnn = nn.LSTM(64, 64, num_layers=2, batch_first=True)
        self.head = nn.Linear(64, 128)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.rnn(self.table(tokens))[0])


class Encoder(nn.Module):
    """torch's own transformer layers on the rows of an image."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(8, 64)
        self.pos_embed = nn.Parameter(0.02 * torch.randn(8, 64))
        layer = nn.TransformerEncoderLayer(64, 4, 160, dropout=0.0, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2)
        self.head = nn.Linear(64, 10)

    def forward(self, rows: Tensor) -> Tensor:
        return self.head(self.encoder(self.embed(rows) + self.pos_embed).mean(1))


class Lora(nn.Module):
    """A frozen layer and a trained low-rank pair beside it."""

    def __init__(self, layer: nn.Linear, rank: int = 8) -> None:
        super().__init__()
        self.base_layer = layer
        self.lora_A = nn.Linear(layer.in_features, rank, bias=False)
        self.lora_B = nn.Linear(rank, layer.out_features, bias=False)
        nn.init.zeros_(self.lora_B.weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.base_layer(x) + self.lora_B(self.lora_A(x))


def adapted_llama() -> nn.Module:
    model = llama().requires_grad_(False)
    for layer in model.model.layers:
        for block in (layer.self_attn, layer.mlp):
            for name, module in list(block.named_children()):
                if isinstance(module, nn.Linear):
                    setattr(block, name, Lora(module))
    return model


ZOO = (
    Entry("GPT-2", "transformers; fused projections stored (in, out), tied head", gpt2, next_byte),
    Entry("Llama", "transformers; grouped queries, two heads a key", llama, next_byte),
    Entry("Mixtral", "transformers; stacks of four experts and a router", mixtral, next_byte),
    Entry("T5", "transformers; one table for encoder, decoder and head", t5, second_half),
    Entry("ViT", "transformers; patches, class token, position table", vit, class_of_images),
    Entry("Whisper", "transformers; 1-d convolutions, tied head", whisper, spelled_classes),
    Entry("Mamba", "transformers; depthwise convolutions, state space", mamba, next_byte),
    Entry("ResNet", "torch; batch norm, strided convolutions", resnet, class_of),
    Entry("U-Net", "torch; transposed convolutions, group norm", UNet, restored),
    Entry("LSTM", "torch; stacked gates", Recurrent, next_byte_of_logits),
    Entry("Encoder", "torch; nn.TransformerEncoder, nn.MultiheadAttention", Encoder, class_of_rows),
    Entry("LoRA", "Llama, frozen, with a low-rank pair on every layer", adapted_llama, next_byte),
)
