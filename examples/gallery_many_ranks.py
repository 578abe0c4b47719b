# %% [markdown]
"""
# Many ranks

Two processes with FSDP2 take the steps of one. Each holds half of every parameter and of the
optimizer's state; the dual norm and its threshold are those of all layers together.
"""

# %%
import os
import sys
import tempfile

import matplotlib.pyplot as plt
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from drawing import BLUE, ORANGE, save
from real_data import digits
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.nn.functional import cross_entropy

from normball import ClippedScion, param_groups

STEPS, RANKS = 200, 2


def train(sharded):
    """Return the losses and the dual norms of the steps; both the same on all ranks."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    (x, y), _ = (part.tensors for part in digits())
    model = nn.Sequential(
        nn.Flatten(), nn.Linear(64, 128), nn.GELU(), nn.Linear(128, 128), nn.GELU(),
        nn.Linear(128, 10),
    ).double()  # fmt: skip
    if sharded:
        fully_shard(model)
    optimizer = ClippedScion(param_groups(model), average=0.1)
    rank, ranks = (dist.get_rank(), RANKS) if sharded else (0, 1)
    losses, duals = [], []
    for step in range(STEPS):
        rows = torch.randperm(len(x), generator=torch.Generator().manual_seed(step))[:64]
        mine = rows.chunk(ranks)[rank]  # every rank has its part of the batch
        optimizer.zero_grad()
        loss = cross_entropy(model(x[mine].double()), y[mine])
        loss.backward()
        optimizer.step()
        whole = loss.detach().clone()
        if sharded:
            dist.all_reduce(whole)
        losses.append(whole.item() / ranks)
        duals.append(optimizer.metrics()["dual_norm"].item())
    return losses, duals


def rank_of_two(rank, folder):
    """Train as one of two processes that talk through gloo."""
    store = f"file://{folder}/store"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=RANKS)
    found = train(True)
    if rank == 0:
        torch.save(found, os.path.join(folder, "found.pt"))
    dist.barrier()
    os._exit(0)  # gloo may abort while it is taken down


# %%
def main():
    """Compare both runs."""
    with tempfile.TemporaryDirectory() as folder:
        # A notebook's functions can be forked, but not sent to a process that starts anew.
        way = "fork" if sys.platform == "linux" else "spawn"
        processes = mp.start_processes(rank_of_two, (folder,), RANKS, False, start_method=way)
        while not processes.join():
            pass
        losses, duals = torch.load(os.path.join(folder, "found.pt"))
    one, norms = train(False)
    print(f"loss {one[0]:.3f} at the first step, {one[-1]:.5f} at the last")
    print(f"largest difference of losses {max(map(abs, map(float.__sub__, losses, one))):.1e}")
    apart = max(abs(a / b - 1) for a, b in zip(duals, norms, strict=True))
    print(f"largest relative difference of dual norms {apart:.1e}")

    figure, (left, right) = plt.subplots(1, 2)
    for axes, ours, theirs in ((left, losses, one), (right, duals, norms)):
        axes.semilogy(theirs, color=BLUE, linewidth=4, alpha=0.5, label="one process")
        axes.semilogy(ours, color=ORANGE, linewidth=1, label="two ranks, FSDP2")
        axes.set(xlabel="step")
    left.set(title="loss")
    right.set(title="dual norm")
    left.legend()
    save(figure, "gallery_many_ranks")


if __name__ == "__main__":
    main()
