"""Accelerate's own FSDP2: it shards the model and puts its DTensors into the optimizer's lists."""

import os

import numpy
import pytest
import torch
from torch import nn

from normball import ClippedScion, param_groups
from tests import needs
from tests.distributed.launch import launch

pytestmark = [pytest.mark.slow, needs.fsdp_on_cpu]
pytest.importorskip("accelerate")
RANKS = 2
CASES = {
    "measured": {"average": 0.1},
    "given": {"lr": 0.02, "rho": 3.0},
    "constrained": {"lr": 0.02, "rho": 3.0, "constrained": True},
}


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.up, self.down = nn.Linear(16, 32), nn.Linear(32, 16)

    def forward(self, x):
        return x + self.down(torch.relu(self.up(x)))


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 16), Block(), Block(), nn.Linear(16, 4)).double()


def batch(step, rank, ranks):
    x = torch.randn(16, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(step))
    return x[rank::ranks]


def alone(case):
    model = network()
    optimizer = ClippedScion(param_groups(model), **CASES[case])
    seen = []
    for step in range(12):
        optimizer.zero_grad()
        x = batch(step, 0, 1)
        (model(x) - x[:, :4].cumsum(1)).square().mean().backward()
        optimizer.step()
        seen.append(figures(optimizer))
    optimizer.eval()
    return [p.detach() for p in model.parameters()], seen


def figures(optimizer):
    metrics = optimizer.metrics()
    size = metrics["gap" if "gap" in metrics else "dual_norm"]
    return float(size), float(metrics["step_factor"])


def sharded(case, folder):
    """Train, save half-way, go on, come back, and go on again."""
    rank = torch.distributed.get_rank()
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(RANKS)}
    os.environ |= {"MASTER_ADDR": "localhost", "MASTER_PORT": "0", "ACCELERATE_USE_CPU": "true"}
    from accelerate import Accelerator, FullyShardedDataParallelPlugin, utils

    plugin = FullyShardedDataParallelPlugin(
        fsdp_version=2,
        auto_wrap_policy="transformer_based_wrap",
        transformer_cls_names_to_wrap=["Block"],
        cpu_ram_efficient_loading=False,
    )
    accelerator = Accelerator(cpu=True, fsdp_plugin=plugin)
    # It takes the plugin on accelerators only; FSDP2 itself runs on a CPU too.
    accelerator.state.distributed_type = utils.DistributedType.FSDP
    accelerator.state.fsdp_plugin = plugin
    model = network()
    model, optimizer = accelerator.prepare(model, ClippedScion(param_groups(model), **CASES[case]))
    kinds = {type(p).__name__ for group in optimizer.param_groups for p in group["params"]}

    def train(first, last):
        seen = []
        for step in range(first, last):
            optimizer.zero_grad()
            x = batch(step, rank, RANKS)
            accelerator.backward((model(x) - x[:, :4].cumsum(1)).square().mean())
            optimizer.step()
            seen.append(figures(optimizer.optimizer))
        return seen

    def whole():
        return [p.full_tensor().clone() for p in model.parameters()]

    seen = train(0, 6)
    utils.save_fsdp_model(plugin, accelerator, model, folder)
    utils.save_fsdp_optimizer(plugin, accelerator, optimizer, model, folder)
    accelerator.wait_for_everyone()
    first = train(6, 12)
    fast = whole()
    utils.load_fsdp_model(plugin, accelerator, model, folder)
    utils.load_fsdp_optimizer(plugin, accelerator, optimizer, model, folder)
    second = train(6, 12)
    again = whole()
    optimizer.optimizer.eval()
    equal = all(map(torch.equal, fast, again))
    return kinds, whole(), seen + second, first == second and equal


@pytest.mark.parametrize("case", CASES)
def test_it_is_one_process_and_comes_back(case, tmp_path):
    weights, seen = alone(case)
    folder = tmp_path / "state"
    folder.mkdir()
    for kinds, whole, found, same in launch(sharded, RANKS, tmp_path / "ranks", case, str(folder)):
        assert kinds == {"DTensor"}
        assert same
        assert numpy.allclose(found, seen, rtol=1e-10, atol=1e-12)
        for p, q in zip(whole, weights, strict=True):
            assert torch.allclose(p, q, rtol=0, atol=1e-10)
