"""A rank that dies in a step or in a save: the others end, and the last checkpoint goes on."""

import os
import time
from datetime import timedelta

import pytest
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
import torch.multiprocessing as mp
from torch import nn
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.fsdp import fully_shard

from normball import ClippedScion, param_groups
from normball.optim import base
from normball.parallel import division
from tests import THREADS

pytestmark = pytest.mark.slow
RANKS, SAVED, DIES, LAST = 3, 3, 6, 9
TIMEOUT = 20.0


def build(sharded):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(12, 8), nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 12))
    model.double()
    if sharded:
        fully_shard(model)
    return model, ClippedScion(param_groups(model), average=0.1)


def train(model, optimizer, steps):
    for step in steps:
        tokens = torch.randint(12, (16,), generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(tokens), (tokens * 5 + 1) % 12).backward()
        optimizer.step()


def save(model, optimizer, folder):
    weights, state = get_state_dict(model, optimizer)
    dcp.save({"model": weights, "optimizer": state}, checkpoint_id=folder)


def load(model, optimizer, folder):
    weights, state = get_state_dict(model, optimizer)
    held = {"model": weights, "optimizer": state}
    dcp.load(held, checkpoint_id=folder)
    set_state_dict(
        model, optimizer, model_state_dict=held["model"], optim_state_dict=held["optimizer"]
    )


def die(*_, **__):
    os._exit(7)


def dies(owner, name):
    assert hasattr(owner, name)
    setattr(owner, name, die)


FAULTS = {
    "between the two reductions": lambda: dies(base, "settle"),
    "in the exchange of matrices": lambda: dies(division, "swap"),
    "in a save": lambda: dies(dcp.FileSystemWriter, "write_data"),
}


def worker(rank, ranks, folder, fault):
    torch.set_num_threads(THREADS)
    store = f"file://{folder}/store-{ranks}"
    limit = timedelta(seconds=TIMEOUT)
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=ranks, timeout=limit)
    model, optimizer = build(True)
    if fault is None:
        load(model, optimizer, folder / "first")
        train(model, optimizer, range(SAVED, LAST))
        optimizer.eval()
        weights = [p.full_tensor().detach() for p in model.parameters()]
        torch.save(weights, folder / f"{rank}.pt")
        dist.barrier()
        os._exit(0)
    train(model, optimizer, range(SAVED))
    save(model, optimizer, folder / "first")
    train(model, optimizer, range(SAVED, DIES))
    if rank == 1:
        FAULTS[fault]()
    save(model, optimizer, folder / "second")
    train(model, optimizer, range(DIES, LAST))
    os._exit(0)


def run(ranks, folder, fault):
    context = mp.get_context("spawn")
    found = [context.Process(target=worker, args=(r, ranks, folder, fault)) for r in range(ranks)]
    for process in found:
        process.start()
    began = time.monotonic()
    for process in found:
        process.join(6 * TIMEOUT)
    hung = [process for process in found if process.is_alive()]
    for process in hung:
        process.kill()
    assert not hung, f"{len(hung)} ranks hang after {time.monotonic() - began:.0f} s"
    return [process.exitcode for process in found]


@pytest.mark.parametrize("fault", FAULTS)
def test_the_others_end_and_fewer_ranks_go_on(fault, tmp_path):
    codes = run(RANKS, tmp_path, fault)
    assert codes[1] == 7
    assert all(code not in (0, 7) for code in (codes[0], codes[2]))
    whole = [name for name in ("first", "second") if (tmp_path / name / ".metadata").exists()]
    assert whole == (["first"] if fault == "in a save" else ["first", "second"])
    assert run(RANKS - 1, tmp_path, None) == [0] * (RANKS - 1)
    model, optimizer = build(False)
    train(model, optimizer, range(LAST))
    optimizer.eval()
    for rank in range(RANKS - 1):
        for p, q in zip(torch.load(tmp_path / f"{rank}.pt"), model.parameters(), strict=True):
            assert torch.allclose(p, q, rtol=0, atol=1e-10)
