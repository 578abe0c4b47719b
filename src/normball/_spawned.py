"""How a process that was spawned for work behaves: it obeys its parent, and ends with it."""

import os
import signal
import threading
from multiprocessing import parent_process
from multiprocessing.connection import wait

import torch


def settle_in() -> None:
    """Begin the life of a worker: one thread of arithmetic, Ctrl-C left to its parent.

    However the parent ends, the process ends with it: one that waits for work from it would wait
    for ever.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(1)


def _end_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        wait([parent.sentinel])
    os._exit(1)
