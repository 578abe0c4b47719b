"""A step shared by two processes, against the same step on one: `python -m benchmarks.split`.

Each process has one thread and talks to the others through gloo on this machine. The processes take
turns between the ways of stepping, and the lone step has the machine to itself. Beside the time of
the first rank it gives the processor's time of the busiest one, which other work on the machine
disturbs less.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.distributed.fsdp import fully_shard

from benchmarks.work import WORKS, Shapes, parameters, refill, summary
from normball import ClippedScion

# One large matrix, and many: cut along the longer side, and along the shorter one.
SHARDED = {"one": [(4096, 1024)], "long": [(2048, 512)] * 24, "short": [(512, 2048)] * 24}


class Layers(torch.nn.Module):
    """The parameters of a work, as a module that can be sharded."""

    def __init__(self, shapes: Shapes) -> None:
        super().__init__()
        for i, p in enumerate(parameters(shapes)):
            self.register_parameter(f"p{i}", p)


def worker(rank: int, ranks: int, shapes: Shapes, rounds: int, folder: str) -> None:
    """Time all, and write the seconds of every round."""
    torch.set_num_threads(1)
    store = f"file://{folder}/store"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=ranks)
    whole, shared = parameters(shapes), parameters(shapes)
    sharded = list(fully_shard(Layers(shapes)).parameters())
    together = list(fully_shard(Layers(shapes)).parameters())
    grads = [p.grad.clone() for p in whole if p.grad is not None]
    for params in (sharded, together):
        for p, g in zip(params, grads, strict=True):
            p.grad = torch.distributed.tensor.distribute_tensor(g, p.device_mesh, p.placements)
    ways = {
        "one process": ClippedScion(whole, 0.01, rho=1e3, radius=1.0),
        "split": ClippedScion(shared, 0.01, rho=1e3, radius=1.0, split=True),
        "sharded": ClippedScion(sharded, 0.01, rho=1e3, radius=1.0),
        "together": ClippedScion(together, 0.01, rho=1e3, radius=1.0, ranks_per_matrix=ranks),
    }
    times: dict[str, dict[str, list[float]]] = {
        clock: {name: [] for name in ways} for clock in ("time", "processor")
    }
    for i in range(rounds + 1):
        for name, optimizer in ways.items():
            if name in ("one process", "split"):
                refill(whole if name == "one process" else shared, grads)
            dist.barrier()
            start, used = time.perf_counter(), time.process_time()
            if rank == 0 or name != "one process":
                optimizer.step()
            seconds = time.perf_counter() - start
            busiest = torch.tensor(time.process_time() - used, dtype=torch.float64)
            dist.all_reduce(busiest, dist.ReduceOp.MAX)
            if i:
                times["time"][name].append(seconds)
                times["processor"][name].append(float(busiest))
    if rank == 0:
        Path(folder, "times.json").write_text(json.dumps(times))
    dist.barrier()
    dist.destroy_process_group()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.split", description=__doc__)
    works = WORKS | SHARDED
    parser.add_argument("--work", choices=sorted(works), default="a")
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        arguments = (options.ranks, works[options.work], options.rounds, folder)
        mp.spawn(worker, arguments, nprocs=options.ranks)
        times = json.loads(Path(folder, "times.json").read_text())
    for clock, seconds in times.items():
        for name, row in summary(seconds, "one process").items():
            print(clock, name, *(f"{key}={value}" for key, value in row.items()), sep="  ")


if __name__ == "__main__":
    main()
