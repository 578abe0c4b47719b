"""The rivals, each if it is installed."""

import importlib.metadata
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
from torch import nn
from torch.optim import Optimizer
from torch.overrides import TorchFunctionMode

import normball
from normball import ClippedScion, Scion
from normball.norms import Sign, Spectral
from normball.polar import Auto, Nonic, Polar

Params = list[nn.Parameter]
Make = Callable[[Params], Optimizer]

# Installed by `pip install --no-deps`: heavyball asks for numpy and opt-einsum, gram-newton-schulz
# for CUDA kernels, and none of them is used here.
PEERS = ("heavyball", "pytorch-optimizer", "gram-newton-schulz")
_HALF = (torch.bfloat16, torch.float16)


def _wider(x: Any) -> Any:
    return torch.float32 if isinstance(x, torch.dtype) and x in _HALF else x


class Float32(TorchFunctionMode):
    """Take out the casts to 16 bit: on a CPU without such products they cost 27 times as much."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__name__", "") in ("bfloat16", "half"):
            return args[0].clone()
        args = [_wider(a) for a in args]
        kwargs = {k: _wider(v) for k, v in (kwargs or {}).items()}
        return func(*args, **kwargs)


@contextmanager
def eager() -> Iterator[None]:
    """No compiler: it would need a C++ toolchain, and minutes, for a step that is all products."""

    def same(f: Any = None, *_: Any, **__: Any) -> Any:
        return f if f is not None else lambda g: g

    with mock.patch.object(torch, "compile", same):
        yield


def scion(polar: Polar, rho: float | None = 1.0, **options: Any) -> Make:
    """Ours: the spectral norm on matrices, the sign on the embedding; `rho=None` for `Scion`."""

    def make(params: Params) -> Optimizer:
        embedding = [p for p in params if max(p.shape) > 20 * min(p.shape)]
        hidden = [p for p in params if all(p is not e for e in embedding)]
        groups = [{"params": hidden, "norm": Spectral("rms", polar)}]
        if embedding:
            groups.append({"params": embedding, "norm": Sign()})
        if rho is None:
            return Scion(groups, 1e-3, **options)
        return ClippedScion(groups, 1e-3, rho=rho, **options)

    return make


OURS: dict[str, Make] = {
    "normball": scion(Auto()),
    "normball, reuse_grad": scion(Auto(), reuse_grad=True),
    "normball, Nonic": scion(Nonic()),
}
# Momenta in few bits, and the method without a threshold.
FRUGAL: dict[str, Make] = {
    "normball, bfloat16": scion(Auto(), state_dtype=torch.bfloat16),
    "normball, bfloat16, reuse_grad": scion(Auto(), state_dtype=torch.bfloat16, reuse_grad=True),
    "normball, int8": scion(Auto(), state_dtype=torch.int8),
    "normball, Scion": scion(Auto(), rho=None),
}


def muon(params: Params) -> Optimizer:
    if not hasattr(torch.optim, "Muon"):
        raise SystemExit(
            "the benchmarks compare with torch.optim.Muon, which came with torch 2.9, and this is "
            f"torch {torch.__version__}: update torch."
        )
    return torch.optim.Muon(params, 1e-3, weight_decay=0)


def rivals() -> tuple[dict[str, Make], list[str]]:
    """Return the rivals that are installed, in fp32 unless named stock, and the names of others."""
    found: dict[str, Make] = {
        "torch.optim.Muon": muon,
        "AdamW, fused": lambda p: torch.optim.AdamW(p, 1e-3, fused=True),
    }
    absent = []
    for name in PEERS:
        try:
            with eager():
                found[name] = _load(name)
        except ImportError:
            absent.append(name)
    return found, absent


def _load(name: str) -> Make:
    if name == "heavyball":
        import heavyball

        return lambda p: heavyball.Muon(p, compile_step=False)
    if name == "pytorch-optimizer":
        from pytorch_optimizer import Muon as Pytorch

        return lambda p: Pytorch([{"params": p, "use_muon": True}], ns_method="gram_newton_schulz")
    from gram_newton_schulz import Muon as Gram

    return lambda p: Gram(p, ns_use_kernels=False)


def versions() -> dict[str, str]:
    """Versions of what was measured."""
    found = {"python": sys.version.split()[0], "torch": torch.__version__}
    found["normball"] = normball.__version__
    for name in PEERS:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "absent"
    return found
