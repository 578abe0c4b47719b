"""Draw the picture of docs/howto/logging.md: `make figures`."""

from pathlib import Path

import matplotlib as mpl
import torch

from normball import ClippedScion, param_groups, plot
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
optimizer = ClippedScion(param_groups(model), lr=0.03, rho=4.0)
history = plot.History(optimizer)
for _ in range(200):
    rows = torch.randint(len(x), (128,))
    optimizer.zero_grad()
    torch.nn.functional.cross_entropy(model(x[rows]), y[rows]).backward()
    optimizer.step()
    history.record()
with mpl.rc_context(VECTOR | {"font.size": 11}):
    readable(plot.draw(history)).savefig(
        Path(__file__).with_suffix(".svg"), metadata={"Date": None}
    )
