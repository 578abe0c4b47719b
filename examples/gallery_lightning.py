# %% [markdown]
"""
# Lightning

`configure_optimizers` returns the optimizer. The callback `AverageWeights` validates the averaged
weights and leaves them in the model at the end.
"""

# %%
import logging
import warnings

import lightning
import matplotlib.pyplot as plt
import torch
from drawing import BLUE, ORANGE, save
from real_data import cnn, digits
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader

from normball import ClippedScion, param_groups
from normball.lightning import AverageWeights

logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
warnings.filterwarnings("ignore", message=".*does not have many workers")


class Digits(lightning.LightningModule):
    """A network for the digits; it notes what it sees."""

    def __init__(self):
        super().__init__()
        self.net = cnn()
        self.losses, self.factors, self.wrong = [], [], []

    def configure_optimizers(self):
        """Return the optimizer; nothing is set but the average."""
        return ClippedScion(param_groups(self), average=0.1)

    def training_step(self, batch, _):
        """Return the loss of a batch."""
        x, y = batch
        loss = cross_entropy(self.net(x), y)
        self.losses.append(loss.item())
        return loss

    def on_train_batch_end(self, *_):
        """Note which share of the longest step was taken."""
        self.factors.append(float(self.optimizers().optimizer.metrics()["step_factor"]))

    def validation_step(self, batch, _):
        """Note how many held-out digits the averaged weights read wrong."""
        x, y = batch
        self.wrong.append(100 * (self.net(x).argmax(1) != y).float().mean().item())


# %%
lightning.seed_everything(0, verbose=False)
train, test = digits()
model = Digits()
trainer = lightning.Trainer(
    max_epochs=12, callbacks=[AverageWeights()], accelerator="cpu", devices=1, logger=False,
    enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
)  # fmt: skip
loader = DataLoader(train, batch_size=64, shuffle=True, drop_last=True)
trainer.fit(model, loader, DataLoader(test, batch_size=len(test)))
wrong = model.wrong[-12:]  # before the first epoch, Lightning tries the validation once
print(f"first loss {model.losses[0]:.3f}, last loss {model.losses[-1]:.4f}")
print(f"held-out accuracy {1 - wrong[-1] / 100:.3f}")
print(f"steps clipped to the longest: {sum(f >= 1 for f in model.factors)} of {len(model.factors)}")

# %%
torch.manual_seed(0)
figure, (left, right) = plt.subplots(1, 2)
left.semilogy(model.losses, color=BLUE, linewidth=1)
left.set(title="loss of each batch", xlabel="step")
right.plot(range(1, 13), wrong, "o-", color=ORANGE)
right.set(title="held-out digits read wrong, %", xlabel="epoch", ylim=(0, None))
save(figure, "gallery_lightning")
