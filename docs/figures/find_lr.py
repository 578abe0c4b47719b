"""Draw the picture of docs/howto/measure.md, the loss at growing step sizes: `make figures`."""

from pathlib import Path

import matplotlib as mpl
import torch

from normball import ClippedScion, find_lr, param_groups
from normball._style import VECTOR, readable
from normball.lab.data import load_digits

torch.manual_seed(0)
torch.set_num_threads(1)
data = load_digits()
x, y = data.train_x.flatten(1), data.train_y
model = torch.nn.Sequential(
    torch.nn.Linear(64, 128),
    torch.nn.GELU(),
    torch.nn.Linear(128, 128),
    torch.nn.GELU(),
    torch.nn.Linear(128, 10),
)
optimizer = ClippedScion(param_groups(model))


def closure() -> torch.Tensor:
    """Compute the loss of a new batch."""
    rows = torch.randint(len(x), (128,))
    optimizer.zero_grad()
    loss = torch.nn.functional.cross_entropy(model(x[rows]), y[rows])
    loss.backward()
    return loss


with mpl.rc_context(VECTOR):
    axes = find_lr(optimizer, closure).plot()
    readable(axes.figure).savefig(Path(__file__).with_name("find-lr.svg"), metadata={"Date": None})
