# %% [markdown]
"""
# LoRA

A small Llama that knows English prose is adapted to Python code. Its own weights stay as they are.
Pairs of thin matrices beside its layers learn the difference.
"""

# %%
import argparse
import inspect
from pydoc_data.topics import topics

import matplotlib.pyplot as plt
import torch
from drawing import BLUE, INK, ORANGE, save
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

from normball import ClippedScion, param_groups


def split(text):
    """Return the pieces of 64 bytes of a text: those for training, and every tenth."""
    data = torch.tensor(list(text.encode()))
    pieces = data[: len(data) // 64 * 64].reshape(-1, 64)
    return pieces[torch.arange(len(pieces)) % 10 != 0], pieces[::10]


def loss_on(model, pieces):
    """Return the mean loss in nats per byte."""
    return model(input_ids=pieces, labels=pieces).loss


def train(model, data, tests, steps):
    """Train the parameters that are not frozen; return the losses on the held-out pieces."""
    optimizer = ClippedScion(param_groups(model), average=0.1)
    found = {}
    for step in range(steps + 1):
        if step % 50 == 0:
            optimizer.eval()  # the averaged weights
            with torch.no_grad():
                found[step] = [loss_on(model, pieces).item() for pieces in tests]
            optimizer.train()  # the fast ones
        loss = loss_on(model, data[torch.randint(len(data), (16,))])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    optimizer.eval()
    return found


# %%
torch.manual_seed(0)
prose, prose_test = split("\n".join(topics.values()))
code, code_test = split(inspect.getsource(argparse))
tests = [prose_test[:200], code_test]
model = LlamaForCausalLM(
    LlamaConfig(
        vocab_size=256, hidden_size=96, intermediate_size=256, num_hidden_layers=2,
        num_attention_heads=4, max_position_embeddings=64, bos_token_id=1, eos_token_id=2,
    )
)  # fmt: skip
before = train(model, prose, tests, 400)
print("prose {:.3f}, code {:.3f} nats per byte".format(*before[400]))

# %% [markdown]
# `param_groups` reads the pairs that `peft` has made. What is frozen has no gradient, and stays.

# %%
adapted = get_peft_model(model, LoraConfig(r=4, target_modules="all-linear"))
trained, whole = adapted.get_nb_trainable_parameters()
print(f"{trained} of {whole} parameters are trained")
after = train(adapted, code, tests, 300)
print("prose {:.3f}, code {:.3f} nats per byte".format(*after[300]))

# %%
figure, axes = plt.subplots()
steps = [*before, *(400 + step for step in after)]
for i, (name, colour) in enumerate({"prose": BLUE, "code": ORANGE}.items()):
    losses = [loss[i] for loss in (*before.values(), *after.values())]
    axes.plot(steps, losses, "o-", color=colour, label=f"held-out {name}")
axes.axvline(400, color=INK, linestyle=":", linewidth=1)
axes.set(xlabel="step", ylabel="loss in nats per byte", ylim=(0.8, 4))
axes.text(200, 3.8, "all weights, on prose", ha="center")
axes.text(550, 3.8, "LoRA, on code", ha="center")
axes.legend(loc="right")
save(figure, "gallery_lora")
