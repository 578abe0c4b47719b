"""Run a script in float64 under torchrun, and kill ranks in it.

    torchrun -m tests.distributed.elastic FAULTS SCRIPT ...

FAULTS is a JSON list of [attempt, rank, place, call]: in this attempt this rank kills itself at
this call of a place.
"""

import json
import os
import runpy
import signal
import sys

import torch
import torch.distributed.checkpoint as dcp

from normball.parallel import division
from tests import THREADS

PLACES = {"exchange": (division, "swap"), "save": (dcp.FileSystemWriter, "write_data")}


def before(owner, name, action):
    """Call `action` before every call of a function."""
    whole = getattr(owner, name)

    def both(*args, **options):
        action(*args, **options)
        return whole(*args, **options)

    setattr(owner, name, both)


def arm(place, call):
    """Kill this process at a call of a place, counted from one."""
    calls = []

    def count(*_, **__):
        calls.append(place)
        if len(calls) == call:
            print(f"dies: {place}", flush=True)
            os.kill(os.getpid(), signal.SIGKILL)

    before(*PLACES[place], count)


def tell(*_, checkpoint_id, **__):
    """Print the name of a checkpoint that is loaded."""
    print(f"loads: {checkpoint_id.name}", flush=True)


if __name__ == "__main__":
    torch.set_num_threads(THREADS)
    torch.set_default_dtype(torch.float64)
    here = int(os.environ["TORCHELASTIC_RESTART_COUNT"]), int(os.environ["RANK"])
    for attempt, rank, place, call in json.loads(sys.argv[1]):
        if here == (attempt, rank):
            arm(place, call)
    if here[1] == 0:
        before(dcp, "load", tell)
    del sys.argv[:2]
    runpy.run_path(sys.argv[0], run_name="__main__")
