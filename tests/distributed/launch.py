"""Functions run on several processes that talk through gloo."""

import os
import sys

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from tests import THREADS


def _worker(rank, ranks, function, arguments, folder):
    torch.set_num_threads(THREADS)
    store = f"file://{folder}/store"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=ranks)
    torch.save(function(*arguments), folder / f"{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()
    # Threads of torch that still run when a process ends can abort it, on a busy machine.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def launch(function, ranks, folder, *arguments):
    """Call `function(*arguments)` on every rank; return what each returned, in their order."""
    folder.mkdir(parents=True)
    mp.spawn(_worker, (ranks, function, arguments, folder), nprocs=ranks)
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(ranks)]
