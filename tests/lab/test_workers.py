import os
import signal
from contextlib import nullcontext
from multiprocessing import active_children

import pytest

from normball.lab import workers
from normball.lab.workers import Advanced, Finished, Started
from tests.lab.samples import config, run_all


def test_a_worker_ignores_ctrl_c_where_it_inherits_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As on Windows, which gives Ctrl-C to all processes of a console."""
    monkeypatch.setattr(workers, "_interrupt_ignored", nullcontext)
    # A test runner in the background ignores it itself, and passes that on.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    others = set(active_children())
    events = run_all([config(epochs=3)], jobs=1)
    try:
        assert isinstance(next(events), Started)
        assert isinstance(next(events), Advanced)
        (worker,) = set(active_children()) - others
        os.kill(worker.pid, signal.SIGINT)
        assert isinstance(list(events)[-1], Finished)
    finally:
        events.close()
        signal.signal(signal.SIGINT, before)
