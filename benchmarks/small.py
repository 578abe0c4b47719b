"""Small networks, where a step is mostly calls: `optimizer.step` beside AdamW's and Muon's."""

import time
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks import work
from normball import ClippedScion, Scion, param_groups
from normball.lab.arena.methods import MuonAdamW
from normball.lab.arena.nets import Recurrent, ResNet
from normball.lab.models.cnn import small_cnn
from normball.lab.models.mlp import mlp
from normball.polar import Auto

REFERENCE = "AdamW, foreach"
NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "MLP": lambda: mlp(channels=1, size=8, classes=10),
    "CNN": small_cnn,
    "LSTM": lambda: Recurrent(vocabulary=64),
    "ResNet": lambda: ResNet(channels=1, classes=10),
}
METHODS: dict[str, Callable[[nn.Module], Any]] = {
    REFERENCE: lambda model: torch.optim.AdamW(model.parameters(), 1e-3, foreach=True),
    "torch.optim.Muon": lambda model: MuonAdamW(model, 1e-3),
    "normball": lambda model: ClippedScion(param_groups(model), average=0.1),
    "normball, rho given": lambda model: ClippedScion(param_groups(model), rho=1.0),
    "normball, Scion": lambda model: Scion(param_groups(model), 1e-3),
}
# Steps that make one sample, with a measured threshold's looks among them; and those before, since
# at first it looks in every step.
_STEPS = 10
_BEFORE = 40


class Calls(TorchDispatchMode):
    """Counts the operations that reach torch's dispatcher."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += 1
        return func(*args, **(kwargs or {}))


class _Training:
    """Steps of one method on one network, with gradients that stay."""

    def __init__(self, build: Callable[[], nn.Module], make: Callable[[nn.Module], Any]) -> None:
        torch.manual_seed(0)
        self.model = build()
        self.optimizer = make(self.model)
        self.grads = [torch.randn_like(p) for p in self.model.parameters()]
        self.run(_BEFORE)

    def run(self, steps: int = _STEPS) -> None:
        for p, g in zip(self.model.parameters(), self.grads, strict=True):
            p.grad = g
        for _ in range(steps):
            self.optimizer.step()


class _Factors:
    """The polar factors of one step alone: no step that needs them can be faster."""

    def __init__(self, build: Callable[[], nn.Module]) -> None:
        self.matrices: list[Tensor] = []
        training = _Training(build, METHODS["normball, Scion"])

        def seen(factor: Auto, x: Tensor) -> tuple[Tensor, Tensor]:
            self.matrices.append(x.clone())
            return factor.choice(x.dtype, x.device, x.shape)(x)

        with mock.patch.object(Auto, "__call__", seen):
            training.run(1)

    def run(self) -> None:
        for _ in range(_STEPS):
            for x in self.matrices:
                Auto()(x)


def networks(rounds: int) -> Iterator[dict[str, Any]]:
    """Yield the time of a step of every method on every network, and its number of operations.

    It is the processor's time of this thread, since others may use the machine.
    """
    # Muon in float32, without a mode of torch's, which would slow down every call.
    with mock.patch.object(Tensor, "bfloat16", Tensor.clone):
        for network, build in NETWORKS.items():
            runs: dict[str, Any] = {n: _Training(build, make) for n, make in METHODS.items()}
            runs["normball, factors alone"] = _Factors(build)
            calls = {name: run.run for name, run in runs.items()}
            times = work.interleave(calls, 5 * rounds, clock=time.thread_time)
            for name, row in work.summary(times, REFERENCE).items():
                with Calls() as counted:
                    runs[name].run()
                yield {
                    "case": "networks",
                    "network": network,
                    "parameters": sum(p.numel() for p in runs[REFERENCE].model.parameters()),
                    "name": name,
                    "ratio": row["ratio"],
                    "us": round(1e3 * row["ms"] / _STEPS, 1),
                    "operations": counted.count / _STEPS,
                }
