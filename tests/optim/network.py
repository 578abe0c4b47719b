"""A small network with every kind of layer, its groups, and what is compared of its training."""

import torch
from torch import nn
from torch.nn import functional as F

from normball.norms import RMS, Column, Sign, SpectralConv
from normball.polar import SVD


class Mixed(nn.Module):
    """Embedding, conv1d, conv2d, gains and biases, linear."""

    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(11, 6)
        self.conv1 = nn.Conv1d(6, 8, 3, padding=1)
        self.conv2 = nn.Conv2d(1, 4, (3, 2))
        self.gain = nn.LayerNorm(12)
        self.head = nn.Linear(12, 5)

    def forward(self, tokens):
        h = self.table(tokens).mT
        h = torch.tanh(self.conv1(h)).unsqueeze(1)
        h = F.adaptive_avg_pool2d(torch.tanh(self.conv2(h)), (3, 1))
        return self.head(self.gain(h.flatten(1)))


def build(dtype=torch.float64, seed=0):
    torch.manual_seed(seed)
    return Mixed().to(dtype)


def groups(model, polar=None):
    polar = polar or SVD()
    vectors = [model.conv1.bias, model.conv2.bias, *model.gain.parameters(), model.head.bias]
    return [
        {"params": [model.table.weight], "norm": Column(transposed=True), "radius": 2.0},
        {"params": [model.conv1.weight], "norm": SpectralConv(polar=polar), "radius": 3.0},
        {"params": [model.conv2.weight], "norm": SpectralConv("input", polar), "radius": 4.0},
        {"params": [model.head.weight], "norm": Sign(), "radius": 20.0},
        {"params": vectors, "norm": RMS(), "radius": 1.5},
    ]


def loss(model, step):
    generator = torch.Generator().manual_seed(1000 + step)
    tokens = torch.randint(0, 11, (16, 7), generator=generator)
    target = (tokens.sum(1) + tokens[:, 0]) % 5
    return F.cross_entropy(model(tokens).float(), target)


def train(model, optimizer, steps, start=0):
    """Take steps on fresh batches, and return the metrics of each."""
    seen = []
    for step in range(start, start + steps):
        optimizer.zero_grad()
        loss(model, step).backward()
        optimizer.step()
        seen.append({k: v.clone() for k, v in optimizer.metrics().items()})
    return seen


def bits(model):
    return {n: p.detach().clone() for n, p in model.named_parameters()}


def same(a, b):
    """Compare bit for bit, the signs of zeros included."""
    return all(
        torch.equal(x.contiguous().view(torch.uint8), y.contiguous().view(torch.uint8))
        for x, y in zip(a.values(), b.values(), strict=True)
    )


def state_of(optimizer):
    return {i: s["momentum"].clone() for i, s in enumerate(optimizer.state.values())}


def averages(model, optimizer):
    return {n: optimizer.state[p]["average"].clone() for n, p in model.named_parameters()}
