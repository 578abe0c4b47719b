"""FSDP2 and DTensor meshes: sharded training is the training of one process, to rounding."""

import pytest
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
import torch.multiprocessing as mp
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor

from normball import ClippedScion, param_groups
from normball.norms import Spectral, SpectralConv
from normball.polar import SVD

STEPS, ROWS = 6, 12


class Network(nn.Module):
    """Conv, linear, embedding, vectors; sizes that no number of ranks divides."""

    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(7, 5)
        self.conv = nn.Conv1d(5, 9, 3, padding=1)
        self.body = nn.Linear(9, 11)
        self.norm = nn.LayerNorm(11)
        self.head = nn.Linear(11, 3)

    def forward(self, tokens):
        h = torch.tanh(self.conv(self.table(tokens).mT)).mean(-1)
        return self.head(self.norm(torch.tanh(self.body(h))))


def network():
    torch.manual_seed(0)
    return Network().double()


def batch(step):
    generator = torch.Generator().manual_seed(step)
    tokens = torch.randint(0, 7, (ROWS, 4), generator=generator)
    return tokens, tokens.sum(1) % 3


OPTIONS = {
    "clipped": {"rho": 150.0},
    "short-step-1": {"rho": 120.0, "constrained": True, "variant": 1},
    "short-step-2": {"rho": 170.0, "constrained": True},
}


def groups(model):
    plan = param_groups(model, radius=20.0, input_radius=20.0, output_radius=400.0)
    for group in plan:  # exact factors, so that rank-deficient gradients agree to rounding
        if type(group["norm"]) in (Spectral, SpectralConv):
            group["norm"] = type(group["norm"])(group["norm"].scale, SVD())
    return plan


def train(model, share, options, spoil=None):
    """Train on `share` of every batch; return whole weights, and factors and dual norms."""
    optimizer = ClippedScion(groups(model), 0.01, alpha=0.3, **options)
    seen = []
    for step in range(STEPS):
        tokens, y = batch(step)
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(tokens[share]), y[share]).backward()
        if spoil is not None and step == 3:
            spoil(model)
        optimizer.step()
        m = optimizer.metrics()
        seen.append([float(m["step_factor"]), float(m["group_dual_norms"].sum())])
    momenta = {type(s["momentum"]) for s in optimizer.state.values()}
    whole = {
        n: p.full_tensor() if isinstance(p, DTensor) else p for n, p in model.named_parameters()
    }
    return {
        "weights": {n: p.detach().clone() for n, p in whole.items()},
        "seen": torch.tensor(seen, dtype=torch.float64),
        "skipped": float(optimizer.metrics()["skipped"]),
        "sharded": momenta == {DTensor},
    }


def poison(model):
    """Spoil one gradient on the last rank alone."""
    if not dist.is_initialized() or dist.get_rank() == dist.get_world_size() - 1:
        gradient = model.table.weight.grad
        part = gradient.to_local() if isinstance(gradient, DTensor) else gradient
        if part.numel():
            part.view(-1)[0] = float("nan")


def fsdp(ranks):
    model = network()
    for layer in (model.conv, model.body):
        fully_shard(layer)
    return fully_shard(model), slice(dist.get_rank(), None, ranks)


def hybrid(ranks):
    model = network()
    mesh = init_device_mesh("cpu", (2, ranks // 2), mesh_dim_names=("replicate", "shard"))
    fully_shard(model, mesh=mesh)
    return model, slice(dist.get_rank(), None, ranks)


class Distributed(nn.Module):
    """Weights sharded along either dimension of a mesh, all ranks on the whole batch."""

    def __init__(self, ranks):
        super().__init__()
        self.inner = network()
        mesh = init_device_mesh("cpu", (ranks,))
        cuts = {"conv.weight": Shard(1), "body.weight": Shard(1), "head.weight": Shard(0)}
        for name, p in list(self.inner.named_parameters()):
            module, leaf = name.rsplit(".", 1)
            value = distribute_tensor(p.detach(), mesh, [cuts.get(name, Replicate())])
            setattr(self.inner.get_submodule(module), leaf, nn.Parameter(value))
        self.mesh = mesh

    def forward(self, tokens):
        whole = {n: p.full_tensor() for n, p in self.inner.named_parameters()}
        return torch.func.functional_call(self.inner, whole, tokens)


def mesh(ranks):
    return Distributed(ranks), slice(None)


KINDS = {"fsdp": fsdp, "hybrid": hybrid, "mesh": mesh}


def worker(rank, ranks, kinds, store, out):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=ranks)
    results = {}
    for kind in kinds:
        for case, options in OPTIONS.items():
            results[kind, case] = train(*KINDS[kind](ranks), options)
        model, share = KINDS[kind](ranks)
        target = model.inner if kind == "mesh" else model
        results[kind, "nan"] = train(
            model, share, OPTIONS["clipped"], lambda _, target=target: poison(target)
        )
    torch.save(results, f"{out}/{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


@pytest.mark.parametrize(
    ("ranks", "kinds"), [(2, ("fsdp", "mesh")), (3, ("fsdp",)), (4, ("hybrid",))]
)
def test_shards_train_as_one_process(ranks, kinds, tmp_path):
    mp.spawn(worker, (ranks, kinds, tmp_path / "store", tmp_path), nprocs=ranks)
    found = [torch.load(tmp_path / f"{r}.pt", weights_only=False) for r in range(ranks)]
    for case in (*OPTIONS, "nan"):
        options = OPTIONS.get(case, OPTIONS["clipped"])
        alone = train(network(), slice(None), options, poison if case == "nan" else None)
        factors = alone["seen"][:, 0]
        if case in OPTIONS:
            assert factors.min() < 1
        for kind in kinds:
            for results in found:
                here = results[kind, case]
                assert here["sharded"]
                assert here["skipped"] == alone["skipped"] == (case == "nan")
                assert torch.allclose(here["seen"], alone["seen"], rtol=1e-9, equal_nan=True)
                for name, w in alone["weights"].items():
                    key = f"inner.{name}" if kind == "mesh" else name
                    assert torch.allclose(here["weights"][key], w, rtol=0, atol=1e-10), (kind, name)


def advance(model, optimizer, steps, share):
    for step in steps:
        tokens, y = batch(step)
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(tokens[share]), y[share]).backward()
        optimizer.step()


def resume_worker(rank, ranks, load, store, out):
    """Load a checkpoint if there is one, train three steps, save; return whole weights."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=ranks)
    model, share = fsdp(ranks)
    optimizer = ClippedScion(groups(model), 0.01, alpha=0.3, **OPTIONS["clipped"])
    # This makes a step with zero gradients, which must leave no trace.
    saved = {"optimizer": get_optimizer_state_dict(model, optimizer), "model": model.state_dict()}
    first = 0
    if load:
        dcp.load(saved, checkpoint_id=out / "checkpoint")
        model.load_state_dict(saved["model"])
        set_optimizer_state_dict(model, optimizer, saved["optimizer"])
        first = 3
    advance(model, optimizer, range(first, first + 3), share)
    if not load:
        saved = {"optimizer": get_optimizer_state_dict(model, optimizer)}
        dcp.save(saved | {"model": model.state_dict()}, checkpoint_id=out / "checkpoint")
    weights = {n: p.full_tensor().detach() for n, p in model.named_parameters()}
    if rank == 0:
        torch.save(weights, out / f"{ranks}-{load}.pt")
    dist.barrier()
    dist.destroy_process_group()


@pytest.mark.slow
@pytest.mark.parametrize(("before", "after"), [(1, 2), (2, 3), (3, 2), (2, 1), (4, 3)])
def test_a_run_goes_on_on_another_number_of_ranks(before, after, tmp_path):
    mp.spawn(resume_worker, (before, False, tmp_path / "a", tmp_path), nprocs=before)
    mp.spawn(resume_worker, (after, True, tmp_path / "b", tmp_path), nprocs=after)
    model = network()
    optimizer = ClippedScion(groups(model), 0.01, alpha=0.3, **OPTIONS["clipped"])
    advance(model, optimizer, range(6), slice(None))
    resumed = torch.load(tmp_path / f"{after}-True.pt")
    for name, p in model.named_parameters():
        assert torch.allclose(resumed[name], p, rtol=0, atol=1e-10), name
