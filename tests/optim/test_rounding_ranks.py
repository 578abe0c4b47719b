"""Ranks round alike: replicas draw the same bits, and shards those of the whole parameter."""

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.tensor import DTensor, Shard, distribute_tensor, init_device_mesh

from normball import ClippedScion
from normball.norms import Sign
from tests import needs
from tests.distributed.launch import launch

pytestmark = needs.fsdp_on_cpu

SHAPES = [(5, 40), (4, 3, 7), (1, 33), (9,)]
DTYPES = [torch.bfloat16, torch.int8]


def optimizer_of(params, dtype):
    return ClippedScion([{"params": params, "norm": Sign(), "radius": 1.0}], 0.1, rho=1.0,
                        state_dtype=dtype)  # fmt: skip


def trained(spread, dtype, steps=3, state=None):
    """Return the momenta, whole, and the optimizer, after steps with the same gradients."""
    params = [nn.Parameter(spread(torch.zeros(shape))) for shape in SHAPES]
    optimizer = optimizer_of(params, dtype)
    if state is not None:
        optimizer.load_state_dict(state)
    generator = torch.Generator().manual_seed(1)
    for _ in range(steps):
        for p in params:
            p.grad = spread(torch.randn(p.shape, generator=generator))
        optimizer.step()
    return [whole(optimizer.state[p]["momentum"]) for p in params], optimizer


def whole(x):
    return x.full_tensor() if isinstance(x, DTensor) else x


def on_two_ranks():
    torch.manual_seed(dist.get_rank())  # torch's generators must not matter
    mesh = init_device_mesh("cpu", (2,))
    found = {}
    for dtype in DTYPES:
        found[dtype, "replicas"] = trained(lambda x: x, dtype)[0]

        def rows(x):
            return distribute_tensor(x, mesh, [Shard(0)])

        found[dtype, "rows"], optimizer = trained(rows, dtype)
        state = optimizer.state_dict()
        found[dtype, "resumed"] = trained(rows, dtype, 2, state)[0]
        other = DTYPES[dtype == DTYPES[0]]
        found[dtype, "converted"] = trained(rows, other, 2, state)[0]
    columns = nn.Parameter(distribute_tensor(torch.zeros(4, 64), mesh, [Shard(1)]))
    columns.grad = distribute_tensor(torch.ones(4, 64), mesh, [Shard(1)])
    refusing = optimizer_of([columns], torch.int8)
    with pytest.raises(ValueError, match=r"parameter 0 of group 0: .*shard it along dimension 0"):
        refusing.step()
    assert not refusing.state
    with pytest.raises(ValueError, match="shard it along dimension 0"):
        refusing.load_state_dict(optimizer_of([columns], torch.bfloat16).state_dict())
    return found


def test_ranks_round_as_one_process(tmp_path):
    """Bit for bit: no sum over ranks goes into a momentum."""
    for found in launch(on_two_ranks, 2, tmp_path / "two"):
        for dtype in DTYPES:
            momenta, optimizer = trained(lambda x: x, dtype)
            state, other = optimizer.state_dict(), DTYPES[dtype == DTYPES[0]]
            expected = {
                "replicas": momenta,
                "rows": momenta,
                "resumed": trained(lambda x: x, dtype, 2, state)[0],
                "converted": trained(lambda x: x, other, 2, state)[0],
            }
            for way, tensors in expected.items():
                for mine, theirs in zip(tensors, found[dtype, way], strict=True):
                    assert mine.dtype == theirs.dtype
                    assert torch.equal(mine, theirs), (dtype, way, mine.shape)
