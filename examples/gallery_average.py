# %% [markdown]
"""
# Averaged weights

At a fixed step the weights circle around what they have found. `average=0.1` keeps the mean of the
last tenth of them. `optimizer.eval()` puts it into the model, `optimizer.train()` takes the fast
weights back.
"""

# %%
import matplotlib.pyplot as plt
import torch
from drawing import BLUE, ORANGE, save
from real_data import digits
from torch import nn
from torch.nn.functional import cross_entropy

from normball import ClippedScion, param_groups

torch.manual_seed(0)
(x, y), (held_x, held_y) = (part.tensors for part in digits())
model = nn.Sequential(
    nn.Flatten(), nn.Linear(64, 128), nn.GELU(), nn.Linear(128, 128), nn.GELU(), nn.Linear(128, 10)
)
optimizer = ClippedScion(param_groups(model), average=0.1)


@torch.no_grad()
def test():
    """Return the loss on the held-out digits."""
    return cross_entropy(model(held_x), held_y).item()


# %% [markdown]
# Batches are small, and a fifth of the labels is drawn at random, so that the gradient stays noisy.
# The held-out labels are right.

# %%
noisy = torch.where(torch.rand(len(y)) < 0.2, torch.randint(10, (len(y),)), y)
steps, fast, averaged = [], [], []
for step in range(1, 1001):
    optimizer.train()
    rows = torch.randint(len(x), (16,))
    optimizer.zero_grad()
    cross_entropy(model(x[rows]), noisy[rows]).backward()
    optimizer.step()
    if step % 10 == 0:
        steps.append(step)
        fast.append(test())
        optimizer.eval()
        averaged.append(test())
for name, losses in {"fast": fast, "averaged": averaged}.items():
    print(f"{name}: held-out loss {sum(losses[-50:]) / 50:.3f}, the mean over the last half")

# %%
figure, axes = plt.subplots()
axes.plot(steps, fast, color=BLUE, linewidth=1, label="fast weights")
axes.plot(steps, averaged, color=ORANGE, label="averaged weights")
axes.set(title="loss on held-out digits", xlabel="step", ylabel="cross-entropy", ylim=(0, 1))
axes.legend()
save(figure, "gallery_average")
