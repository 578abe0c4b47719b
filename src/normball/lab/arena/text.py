"""Tasks on text: characters, byte pairs, words of natural frequency, and a model to adapt."""

import math
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from normball.lab.arena.base import ArenaTask, Batch, Scores, chunks, one_thread
from normball.lab.arena.nets import GPT2, Recurrent, WordModel, with_lora
from normball.lab.arena.stock import stock
from normball.lab.models.gpt import GPT

_WINDOW = 64
_ALL, _FEW = 320, 96  # windows
_CHUNK = 32
# The most frequent words of the vocabulary, of whose occurrences a context is common.
_COMMON = 256
_BASE_STEPS = 1500


def _windows(tokens: Tensor, starts: Tensor, length: int) -> Batch:
    rows = tokens[starts.unsqueeze(1) + torch.arange(length + 1)].long()
    return rows[:, :-1], rows[:, 1:]


def _batch(name: str, size: int, length: int, chance: torch.Generator) -> Batch:
    tokens = stock(name)["train"]
    starts = torch.randint(len(tokens) - length, (size,), generator=chance)
    return _windows(tokens, starts, length)


def _loss(model: nn.Module, batch: Batch) -> Tensor:
    return F.cross_entropy(model(batch[0]).flatten(0, 1), batch[1].flatten())


def _held_out(name: str, part: str, length: int, count: int) -> Batch:
    """Windows spread evenly over a half."""
    tokens = stock(name)[part]
    return _windows(tokens, torch.arange(count) * (len(tokens) - length - 1) // count, length)


def _surprise(model: nn.Module, batch: Batch) -> Tensor:
    """The cross-entropy of every token, shape ``(n, length)``."""
    found = [
        F.cross_entropy(model(x).transpose(1, 2), y, reduction="none")
        for x, y in chunks(_CHUNK, *batch)
    ]
    return torch.cat(found)


def _mean(name: str, length: int, model: nn.Module, part: str, whole: bool) -> Scores:
    batch = _held_out(name, part, length, _ALL if whole else _FEW)
    return {"loss": float(_surprise(model, batch).mean())}


def _by_context(model: nn.Module, part: str, whole: bool) -> Scores:
    batch = _held_out("words", part, 32, _ALL if whole else _FEW)
    surprise, common = _surprise(model, batch), (batch[0] > 0) & (batch[0] <= _COMMON)
    return {
        "loss": float(surprise.mean()),
        "after a common word": float(surprise[common].mean()),
        "after a rare word": float(surprise[~common].mean()),
    }


def _language(
    name: str, data: str, size: int = 16, length: int = _WINDOW, **options: object
) -> ArenaTask:
    return ArenaTask(
        name=name,
        unit="nats",
        batch=partial(_batch, data, size, length),
        loss=_loss,
        **{  # type: ignore[arg-type]
            "measure": partial(_mean, data, length),
            "needs": (data,),
            **options,
        },
    )


def _vocabulary(name: str) -> int:
    return int(stock(name)["vocabulary"])


def _gpt() -> nn.Module:
    return GPT(vocabulary=_vocabulary("chars"), dim=64, depth=3, heads=4)


def _gpt2() -> GPT2:
    return GPT2(vocabulary=_vocabulary("pairs"), length=_WINDOW)


def _recurrent() -> nn.Module:
    return Recurrent(vocabulary=_vocabulary("chars"))


def _word_model() -> nn.Module:
    return WordModel(vocabulary=_vocabulary("words"))


def _adapted() -> nn.Module:
    model = _gpt2()
    model.load_state_dict(dict(stock("base")))
    return with_lora(model)


@one_thread()
def train_base() -> dict[str, Tensor]:
    """The weights of the model that the LoRA task adapts: the task of byte pairs, for longer.

    AdamW with a warm-up and a cosine, on one thread and from a seed of its own.
    """
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = _gpt2()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.1)
    chance = torch.Generator().manual_seed(0)
    for step in range(_BASE_STEPS):
        done = step / _BASE_STEPS
        optimizer.param_groups[0]["lr"] = (
            3e-3 * min(1.0, 20 * done + 0.01) * (1 + math.cos(math.pi * done)) / 2
        )
        optimizer.zero_grad()
        loss = _loss(model, _batch("pairs", 16, _WINDOW, chance))
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return model.state_dict()


TASKS = (
    _language(
        "chars",
        "chars",
        about="a GPT (3 blocks, width 64, rotary positions, RMSNorm, tied head) on characters of "
        "Shakespeare's plays, 16 windows of 64",
        steps=300,
        build=_gpt,
    ),
    _language(
        "pairs",
        "pairs",
        about="GPT-2's form (3 blocks, width 64, LayerNorm, biases, learned positions, a head of "
        "its own) on 1,024 byte pairs of Shakespeare's plays, 16 windows of 64",
        steps=450,
        build=_gpt2,
    ),
    _language(
        "lstm",
        "chars",
        about="an LSTM (width 128) on characters of Shakespeare's plays, 16 windows of 64",
        steps=300,
        build=_recurrent,
    ),
    _language(
        "lora",
        "manual",
        about="LoRA of rank 8 on every linear layer of a GPT-2 trained on Shakespeare's plays, "
        "adapted to manual pages of R, 8 windows of 64",
        size=8,
        steps=300,
        build=_adapted,
        needs=("pairs", "manual", "base"),
    ),
    _language(
        "words",
        "words",
        about="a perceptron on the last 4 of 6,000 words of Shakespeare's plays, in their natural "
        "frequency, 16 windows of 32",
        length=32,
        steps=300,
        build=_word_model,
        measure=_by_context,
    ),
)
