"""The shortest way to a trained model: ten lines, on real digits."""

import torch
from sklearn.datasets import load_digits

from normball import ClippedScion, param_groups

x, y = map(torch.tensor, load_digits(return_X_y=True))
model = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 10))
optimizer = ClippedScion(param_groups(model))
for step in range(101):
    loss = torch.nn.functional.cross_entropy(model(x.float() / 16), y)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if step % 20 == 0:
        dual_norm = float(optimizer.metrics()["dual_norm"])
        print(f"step {step}: loss {loss.item():.3f}, dual norm {dual_norm:.1f}")
