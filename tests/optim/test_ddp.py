"""Data-parallel training: the threshold does not depend on the number of ranks."""

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from normball import ClippedScion, param_groups

RANKS, STEPS, ROWS = 2, 8, 12


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 16), nn.Tanh(), nn.Linear(16, 3)).double()


def batch(step):
    generator = torch.Generator().manual_seed(step)
    x = torch.randn(ROWS, 5, generator=generator, dtype=torch.float64)
    return x, x[:, :3].sin()


def train(model, share, constrained):
    """Train on `share` of every batch; return the weights, factors and dual norms or gaps."""
    radii = {"radius": 20.0, "input_radius": 20.0, "output_radius": 400.0}
    optimizer = ClippedScion(
        param_groups(model, **radii), 0.005, rho=60.0, alpha=0.3, constrained=constrained
    )
    seen = []
    for step in range(STEPS):
        x, y = batch(step)
        optimizer.zero_grad()
        nn.functional.mse_loss(model(x[share]), y[share]).backward()
        optimizer.step()
        metrics = optimizer.metrics()
        seen.append((float(metrics["step_factor"]), float(metrics["group_dual_norms"].sum())))
    return [p.detach().clone() for p in model.parameters()], seen


def worker(rank, store, out):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=RANKS)
    results = [
        train(DistributedDataParallel(network()), slice(rank, None, RANKS), constrained)
        for constrained in (False, True)
    ]
    torch.save(results, f"{out}/{rank}.pt")
    dist.destroy_process_group()


def test_two_ranks_train_as_one(tmp_path):
    mp.spawn(worker, (tmp_path / "store", tmp_path), nprocs=RANKS)
    ranks = [torch.load(tmp_path / f"{rank}.pt") for rank in range(RANKS)]
    for case, constrained in enumerate((False, True)):
        weights, seen = train(network(), slice(None), constrained)
        assert min(f for f, _ in seen) < max(f for f, _ in seen) == 1
        for other_weights, other_seen in (ranks[0][case], ranks[1][case]):
            for a, b in zip(weights, other_weights, strict=True):
                assert torch.allclose(a, b, rtol=0, atol=1e-12)
            assert torch.allclose(torch.tensor(seen), torch.tensor(other_seen), rtol=1e-10)
