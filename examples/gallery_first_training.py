# %% [markdown]
"""
# A first training

A small convolutional network learns to read digits. Nothing is set: no step size, no schedule
and no clipping of gradients.
"""

# %%
import matplotlib.pyplot as plt
import torch
from drawing import BLUE, ORANGE, save
from real_data import accuracy, cnn, digits
from torch.nn.functional import cross_entropy
from torch.optim.swa_utils import update_bn
from torch.utils.data import DataLoader

from normball import ClippedScion, param_groups

torch.manual_seed(0)
train, test = digits()
loader = DataLoader(train, batch_size=64, shuffle=True, drop_last=True)
model = cnn()
optimizer = ClippedScion(param_groups(model), average=0.1)

# %% [markdown]
# The loop is the usual one. The model has batch norm. Its statistics are measured again for the
# averaged weights, which are those that we evaluate.

# %%
losses, accuracies = [], []
for epoch in range(12):
    optimizer.train()  # the fast weights, which train
    for x, y in loader:
        loss = cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    optimizer.eval()  # the averaged weights
    update_bn(loader, model)
    accuracies.append(accuracy(model, test))
    print(f"epoch {epoch + 1}: loss {losses[-1]:.4f}, held-out accuracy {accuracies[-1]:.3f}")

# %%
figure, (left, right) = plt.subplots(1, 2)
left.semilogy(losses, color=BLUE, linewidth=1)
left.set(title="loss of each batch", xlabel="step", ylabel="cross-entropy")
right.plot(range(1, 13), [100 * (1 - share) for share in accuracies], "o-", color=ORANGE)
right.set(
    title="wrong on held-out digits",
    xlabel="epoch",
    ylabel="%",
    ylim=(0, None),
    xticks=range(2, 13, 2),
)
save(figure, "gallery_first_training")
