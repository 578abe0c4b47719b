"""Steps without values: fake tensors and the meta device, for estimates of memory before a run."""

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from normball import ClippedScion, Scion, param_groups

MAKE = {
    "measured": lambda p: ClippedScion(p),
    "average": lambda p: ClippedScion(p, average=0.1),
    "constrained": lambda p: ClippedScion(p, constrained=True),
    "variant 1": lambda p: ClippedScion(p, constrained=True, variant=1, rho=5.0),
    "tensors": lambda p: ClippedScion(p, torch.tensor(0.01), rho=torch.tensor(5.0)),
    "scion": lambda p: Scion(p, 0.01),
}


def network():
    return nn.Sequential(nn.Embedding(9, 8), nn.Linear(8, 16), nn.LayerNorm(16), nn.Linear(16, 8))


@pytest.mark.parametrize("make", MAKE.values(), ids=MAKE)
def test_with_fake_tensors(make):
    with FakeTensorMode():
        model = network()
        optimizer = make(param_groups(model))
        for _ in range(12):
            optimizer.zero_grad()
            model(torch.zeros(4, dtype=torch.long)).sum().backward()
            optimizer.step()
        shapes = {p.shape: optimizer.state[p]["momentum"].shape for p in model.parameters()}
    assert all(shape == momentum for shape, momentum in shapes.items())


@pytest.mark.parametrize("make", MAKE.values(), ids=MAKE)
def test_on_the_meta_device(make):
    with torch.device("meta"):
        model = network()
    optimizer = make(param_groups(model))
    for _ in range(12):
        for p in model.parameters():
            p.grad = torch.zeros_like(p)
        optimizer.step()
    assert all(optimizer.state[p]["momentum"].device.type == "meta" for p in model.parameters())
