"""Tensors that share memory: what a step writes must not reach where it reads later."""

import pytest
import torch
from torch import nn

from tests.optim.optimizers import LAYERED

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*(starts|is) outside"),
    pytest.mark.parametrize("row", LAYERED, ids=str),
]
# Above what a step stacks, so that gradients are taken as they are.
SHAPE = (200, 100)


def same_twice(whole):
    return whole[:200], whole[:200]


def overlapping(whole):
    return whole[:200], whole[100:300]


def expanded(whole):
    return whole[:1].expand(SHAPE), whole[5:6].expand(SHAPE)


def apart(whole):
    return whole[:200], whole[200:]


@pytest.mark.parametrize("alpha", [0.3, 1.0])
@pytest.mark.parametrize("maximize", [False, True])
@pytest.mark.parametrize("views", [same_twice, overlapping, expanded, apart])
def test_gradients_that_share_memory_may_be_reused(row, views, maximize, alpha):
    results = []
    for reuse in (False, True):
        generator = torch.Generator().manual_seed(0)
        params = [
            nn.Parameter(1e-3 * torch.randn(SHAPE, generator=generator, dtype=torch.float64))
            for _ in range(2)
        ]
        optimizer = row(params, reuse_grad=reuse, maximize=maximize, alpha=alpha)
        for _ in range(3):
            whole = torch.randn((400, 100), generator=generator, dtype=torch.float64)
            for p, g in zip(params, views(whole), strict=True):
                p.grad = g
            kept = whole.clone()
            optimizer.step()
            # Only what belongs to one gradient alone was taken. Scion takes each step at once: it
            # holds none, and writes to a gradient only to turn its sign.
            holds = row.name != "scion" or maximize
            assert torch.equal(whole, kept) == (not (reuse and holds and views is apart))
        results.append(torch.stack([p.detach() for p in params]))
    assert torch.equal(*results)
