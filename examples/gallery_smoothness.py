# %% [markdown]
"""
# The smoothness of a network

Theory bounds the curvature of the loss by `L0 + L1 * size of the gradient`. `SmoothnessProbe`
measures both sides along a training, in the norms of the optimizer.
"""

# %%
import matplotlib.pyplot as plt
import torch
from drawing import ORANGE, save
from real_data import digits
from torch import nn
from torch.nn.functional import cross_entropy

from normball import ClippedScion, SmoothnessProbe, param_groups

torch.manual_seed(0)
(x, y), _ = (part.tensors for part in digits())
model = nn.Sequential(
    nn.Flatten(), nn.Linear(64, 128), nn.GELU(), nn.Linear(128, 128), nn.GELU(), nn.Linear(128, 10)
)
optimizer = ClippedScion(param_groups(model), average=0.1)
probe = SmoothnessProbe(optimizer, every=1)

# %% [markdown]
# The probe takes the step, and computes the gradient once more after it. The
# closure sees all digits, so that the noise of batches does not hide the curvature.


# %%
def closure():
    """Return the loss on all training images, with its gradient."""
    optimizer.zero_grad()
    loss = cross_entropy(model(x), y)
    loss.backward()
    return loss


for step in range(101):
    loss = probe.step(closure)
    if step % 20 == 0:
        print(f"step {step}: loss {loss.item():.2g}")
seen, fit = probe.samples(), probe.fit()
print(f"L0 {fit.l0:.2f}, L1 {fit.l1:.2f}, rank correlation {fit.correlation:.2f}")

# %%
figure, axes = plt.subplots()
dots = axes.scatter(seen["dual_norm"], seen["L"], c=seen["step"], cmap="cool", s=14)
ends = torch.stack([seen["dual_norm"].min(), seen["dual_norm"].max()])
axes.plot(ends, fit.l0 + fit.l1 * ends, color=ORANGE, label="fitted line, L0 + L1 · dual norm")
axes.set(xlabel="dual norm of the gradient", ylabel="measured L", xscale="log", yscale="log")
figure.colorbar(dots, label="step")
axes.legend()
save(figure, "gallery_smoothness")
