# %% [markdown]
"""
# Weights in norm balls

With `constrained=True` the weights stay in the ball of their layer. For a hidden matrix that is a
bound on its largest singular value. Two equal networks are trained, one free and one in its balls.
"""

# %%
import matplotlib.pyplot as plt
import torch
from drawing import BLUE, INK, ORANGE, save
from real_data import accuracy, digits
from torch import nn
from torch.nn.functional import cross_entropy

from normball import ClippedScion, init_, param_groups

train, test = digits()
x, y = train.tensors


def fit(name, **options):
    """Train a network; return the middle layer's singular values before and after."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Flatten(), nn.Linear(64, 128), nn.GELU(),
        nn.Linear(128, 128), nn.GELU(), nn.Linear(128, 10),
    )  # fmt: skip
    plan = param_groups(model)
    init_(plan)
    before = torch.linalg.svdvals(model[3].weight.detach())
    optimizer = ClippedScion(plan, average=0.1, **options)
    for _ in range(1500):
        rows = torch.randint(len(x), (64,))
        optimizer.zero_grad()
        cross_entropy(model(x[rows]), y[rows]).backward()
        optimizer.step()
    optimizer.eval()
    after = torch.linalg.svdvals(model[3].weight.detach())
    print(f"{name}: held-out accuracy {accuracy(model, test):.3f}")
    print(f"{name}: largest singular value {before[0]:.2f} before, {after[0]:.2f} after")
    return before, after


# %% [markdown]
# `init_` starts every layer on the sphere of its ball, whose radius is 5 here. In the ball, `lr` is
# the share of the way to its edge; the default is 2⁻⁸.

# %%
before, free = fit("free")
_, ball = fit("in the ball", constrained=True)

# %%
figure, axes = plt.subplots()
axes.plot(before, ":", color=INK, label="before, at the edge of the ball")
axes.plot(free, color=BLUE, label="after, free")
axes.plot(ball, color=ORANGE, label="after, in the ball")
axes.set(title="singular values of the middle layer", xlabel="number", ylim=(0, None))
axes.legend()
save(figure, "gallery_constrained")
