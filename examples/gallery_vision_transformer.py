# %% [markdown]
"""
# A vision transformer

Every image is cut into 16 patches of 2 x 2 pixels. A transformer reads them as a sentence of 16
words. It has no convolution, so it has to learn which patches are neighbours.
"""

# %%
import matplotlib.pyplot as plt
import torch
from drawing import BLUE, save
from real_data import digits
from torch import nn
from torch.nn.functional import cross_entropy, pixel_unshuffle

from normball import ClippedScion, param_groups


class ViT(nn.Module):
    """Patches, two layers of attention, and the mean over all patches."""

    def __init__(self, width=64):
        super().__init__()
        self.embed = nn.Linear(4, width)
        self.positions = nn.Embedding(16, width)
        layer = nn.TransformerEncoderLayer(
            width, 4, 2 * width, dropout=0, activation="gelu", batch_first=True, norm_first=True
        )
        self.layers = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, 10)

    def forward(self, x):
        """Return the logits of images of shape `(n, 1, 8, 8)`."""
        patches = pixel_unshuffle(x, 2).flatten(2).transpose(1, 2)
        tokens = self.embed(patches) + self.positions.weight
        return self.head(self.norm(self.layers(tokens).mean(1)))


# %% [markdown]
# `param_groups` knows the layers of `torch.nn`. It gives each a norm and a radius.

# %%
torch.manual_seed(0)
(x, y), (held_x, held_y) = (part.tensors for part in digits())
model = ViT()
plan = param_groups(model)
print(plan)
optimizer = ClippedScion(plan, average=0.1)

# %%
losses, errors = [], {}
for step in range(601):
    rows = torch.randint(len(x), (64,))
    loss = cross_entropy(model(x[rows]), y[rows])
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    losses.append(loss.item())
    if step % 50 == 0:
        optimizer.eval()  # the averaged weights
        with torch.no_grad():
            read = model(held_x).argmax(1)
        optimizer.train()  # the fast ones
        right = (read == held_y).float().mean().item()
        errors[step] = 100 * (1 - right)
        print(f"step {step}: held-out accuracy {right:.3f}")

# %% [markdown]
# The errors along the training, and six of the held-out digits that are read wrong at its end.

# %%
figure = plt.figure()
left, right = figure.subfigures(1, 2)
axes = left.subplots()
axes.plot(errors.keys(), errors.values(), "o-", color=BLUE)
axes.set(title="wrong on held-out digits", xlabel="step", ylabel="%", ylim=(0, 15))
wrong = (read != held_y).nonzero().flatten()[:6]
for axes, i in zip(right.subplots(2, 3).flat, wrong, strict=False):
    axes.imshow(held_x[i, 0], cmap="gray")
    axes.set_title(f"a {held_y[i]}, read as {read[i]}", fontsize=9)
for axes in right.axes:
    axes.set_axis_off()
save(figure, "gallery_vision_transformer")
