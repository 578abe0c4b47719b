"""The step that begins during the backward pass, beside the same step alone."""

import statistics
import time
from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from normball import ClippedScion, param_groups
from normball.lab.models.gpt import GPT

WIDTH, LAYERS, LENGTH = 384, 4, 128
BATCHES = (1, 4, 16)


class _Training:
    """Steps of a GPT on random tokens, and the seconds that they take."""

    def __init__(self, overlapped: bool) -> None:
        torch.manual_seed(0)
        self.overlapped = overlapped
        self.model = GPT(vocabulary=256, dim=WIDTH, depth=LAYERS)
        self.optimizer = ClippedScion(param_groups(self.model), 1e-3, rho=1.0)
        self.seconds: list[dict[str, float]] = []

    def step(self, tokens: Tensor) -> None:
        """Take a step, and keep its times: by the clock, and of this thread's processor."""
        self.optimizer.zero_grad()
        loss = F.cross_entropy(self.model(tokens).flatten(0, 1), tokens.roll(-1, 1).flatten())
        marks = [(time.perf_counter(), time.thread_time())]
        with self.optimizer.overlap_backward() if self.overlapped else nullcontext():
            loss.backward()  # type: ignore[no-untyped-call]
        marks.append((time.perf_counter(), time.thread_time()))
        self.optimizer.step()
        marks.append((time.perf_counter(), time.thread_time()))
        (began, _), (middle, before), (ended, after) = marks
        self.seconds.append(
            {
                "backward_ms": middle - began,
                "step_ms": ended - middle,
                "both_ms": ended - began,
                "step_processor_ms": after - before,
                "both_processor_ms": after - marks[0][1],
            }
        )


def overlap(rounds: int) -> Iterator[dict[str, Any]]:
    """Yield the times of backward pass and step with and without the overlap, in turns.

    Those by the clock depend on who else uses the machine. Those of this thread's processor are
    what it would be with a core to spare that waits for nothing.
    """
    for batch in BATCHES:
        runs = {"step alone": _Training(False), "overlapped": _Training(True)}
        for _ in range(rounds + 2):
            tokens = torch.randint(0, 256, (batch, LENGTH))
            for run in runs.values():
                run.step(tokens)
        weights = [list(run.model.parameters()) for run in runs.values()]
        same = all(torch.equal(a, b) for a, b in zip(*weights, strict=True))
        for name, run in runs.items():
            seconds = run.seconds[2:]  # the first have no momentum, and nothing to take
            yield {
                "case": "overlap",
                "width": WIDTH,
                "layers": LAYERS,
                "tokens": batch * LENGTH,
                "name": name,
                "same_bits": same,
                **{
                    key: round(1e3 * statistics.median(one[key] for one in seconds), 1)
                    for key in seconds[0]
                },
            }
