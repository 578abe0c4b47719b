# %% [markdown]
"""
# A small GPT

A language model of two layers reads the language reference that comes with Python, byte by byte,
and then writes.
"""

# %%
from pydoc_data.topics import topics

import matplotlib.pyplot as plt
import torch
from drawing import BLUE, INK, ORANGE, save
from torch import nn
from torch.nn.functional import cross_entropy

from normball import ClippedScion, param_groups


class GPT(nn.Module):
    """Bytes and positions, two layers of causal attention, logits for the next byte."""

    def __init__(self, width=96, context=64):
        super().__init__()
        self.tokens = nn.Embedding(256, width)
        self.positions = nn.Embedding(context, width)
        layer = nn.TransformerEncoderLayer(
            width, 4, 4 * width, dropout=0, activation="gelu", batch_first=True, norm_first=True
        )
        self.layers = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, 256, bias=False)

    def forward(self, x):
        """Return the logits of bytes of shape `(n, length)`."""
        mask = nn.Transformer.generate_square_subsequent_mask(x.shape[1])
        x = self.tokens(x) + self.positions.weight[: x.shape[1]]
        return self.head(self.norm(self.layers(x, mask, is_causal=True)))


# %% [markdown]
# The text is cut into pieces of 65 bytes. Every tenth piece is held out.

# %%
torch.manual_seed(0)
text = torch.tensor(list("\n".join(topics.values()).encode()))
pieces = text[: len(text) // 65 * 65].reshape(-1, 65)
held_out, train = pieces[::10], pieces[torch.arange(len(pieces)) % 10 != 0]
model = GPT()
optimizer = ClippedScion(param_groups(model), average=0.1)


def loss_of(piece):
    """Return the mean loss of the bytes of pieces after their first one, in nats."""
    return cross_entropy(model(piece[:, :-1]).flatten(0, 1), piece[:, 1:].flatten())


# %%
losses, tests = [], {}
for step in range(801):
    if step % 50 == 0:
        optimizer.eval()  # the averaged weights
        with torch.no_grad():
            tests[step] = loss_of(held_out[:300]).item()
        print(f"step {step}: held-out loss {tests[step]:.3f} nats")
        optimizer.train()  # the fast ones
    loss = loss_of(train[torch.randint(len(train), (16,))])
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    losses.append(loss.item())
optimizer.eval()

# %% [markdown]
# Two references: the best guess that knows how often each byte occurs, and the best one that
# knows the byte before too.

# %%
pairs = torch.bincount(train[:, :-1].flatten() * 256 + train[:, 1:].flatten(), minlength=1 << 16)
joint = pairs.reshape(256, 256).double() / pairs.sum()
single = torch.special.entr(joint.sum(0)).sum().item()
double = torch.special.entr(joint).sum().item() - torch.special.entr(joint.sum(1)).sum().item()
print(f"bytes by their frequency {single:.3f}, pairs of bytes {double:.3f}")

# %% [markdown]
# A sample, one byte after the other.

# %%
written = list(b"The value of ")
with torch.no_grad():
    for _ in range(200):
        logits = model(torch.tensor([written[-64:]]))[0, -1]
        written.append(int(torch.multinomial((logits / 0.7).softmax(0), 1)))
print("sample:", bytes(written).decode(errors="replace"))

# %%
figure, axes = plt.subplots()
axes.plot(losses, color=BLUE, alpha=0.6, linewidth=1, label="each batch")
axes.plot(tests.keys(), tests.values(), "o-", color=ORANGE, label="held-out pieces, averaged")
for height, name in ((single, "frequencies of bytes"), (double, "frequencies of pairs")):
    axes.axhline(height, color=INK, linestyle=":", linewidth=1)
    axes.text(800, height + 0.04, name, ha="right")
axes.set(title="a GPT on bytes", xlabel="step", ylabel="loss in nats per byte", ylim=(1, 4))
axes.legend()
save(figure, "gallery_gpt")
