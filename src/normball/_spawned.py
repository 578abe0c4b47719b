"""How a spawned worker process behaves: it follows its parent, and ends with it."""

import os
import signal
import threading
from multiprocessing import parent_process
from multiprocessing.connection import wait

import torch


def settle_in() -> None:
    """Set up a worker process: one thread of arithmetic, Ctrl-C handled by its parent only.

    The process ends when the parent ends, in whatever way. Otherwise a worker that waits for work
    would wait for ever.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(1)


def _end_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        wait([parent.sentinel])
    os._exit(1)
