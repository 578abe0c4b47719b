"""`python -I tests/step.py FOLDER`: the package in FOLDER takes a step. Needs torch alone."""

import sys
from pathlib import Path

import torch

import normball

found = Path(normball.__file__).resolve()
assert found.is_relative_to(Path(sys.argv[1]).resolve()), found
model = torch.nn.Linear(3, 2)
optimizer = normball.ClippedScion(normball.param_groups(model), lr=0.1, rho=1.0)
model(torch.ones(1, 3)).sum().backward()
before = model.weight.clone()
optimizer.step()
assert not torch.equal(before, model.weight)
print(normball.__version__)
