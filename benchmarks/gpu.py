"""The step on a GPU, for GPTs of 124M and 1B parameters: `python -m benchmarks.gpu`.

Against torch.optim.Muon, gram-newton-schulz and fused AdamW, with the share of the speed of
16-bit products, the cost of clipping, the same step as a CUDA graph, and the share of the step in
training with batches of 2^19 tokens. Rows are appended to `results/speed/<date>-gpu/rows.jsonl`.
Rivals run as they come, with their own kernels and compiler.
"""

import argparse
import datetime
import importlib.util
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks import floor, peers, work
from benchmarks.__main__ import machine
from normball import ClippedScion, Scion
from normball.lab.models.gpt import GPT
from normball.norms import Sign, Spectral
from normball.polar import Half, Nonic, Polar

Row = dict[str, Any]
Params = list[nn.Parameter]

# The default on a GPU, named so that a CPU can run the same.
HALF = Half()
REFERENCE = "torch.optim.Muon"
# Tokens of a batch.
_BATCH = 2**19
GRAM_PLAIN = "gram-newton-schulz without its kernels"


@dataclass(frozen=True)
class Model:
    """A GPT with a tied embedding; `gemm` is the size of the product that the speed is taken of."""

    width: int
    layers: int
    vocabulary: int
    gemm: int

    def shapes(self) -> work.Shapes:
        """Return the shapes of all matrices, the embedding last."""
        return [*work.transformer(self.width, self.layers), (self.vocabulary, self.width)]


MODELS = {
    "124M": Model(768, 12, 50304, 8192),
    "1B": Model(2048, 20, 50304, 8192),
    "tiny": Model(64, 2, 512, 64),
}


class _Beside:
    """An optimizer for the hidden matrices, and fused AdamW for the embedding."""

    def __init__(self, make: peers.Make, params: Params) -> None:
        *hidden, embedding = params
        self.parts = [make(hidden), torch.optim.AdamW([embedding], 1e-3, fused=True)]

    def step(self) -> None:
        for part in self.parts:
            part.step()


def _ours(polar: Polar, **options: Any) -> Callable[[Params], torch.optim.Optimizer]:
    def make(params: Params) -> torch.optim.Optimizer:
        *hidden, embedding = params
        groups = [
            {"params": hidden, "norm": Spectral("rms", polar)},
            {"params": [embedding], "norm": Sign()},
        ]
        if "rho" in options:
            return ClippedScion(groups, 1e-4, **options)
        return Scion(groups, 1e-4, **options)

    return make


def optimizers(device: torch.device) -> tuple[dict[str, Callable[[Params], Any]], list[str]]:
    """Return how to make each optimizer, and the names of rivals that are not installed."""
    makes: dict[str, Callable[[Params], Any]] = {
        REFERENCE: lambda p: _Beside(peers.muon, p),
        "AdamW, fused": lambda p: torch.optim.AdamW(p, 1e-3, fused=True),
        "normball": _ours(HALF, rho=1.0),
        "normball, unclipped": _ours(HALF),
        "normball, reuse_grad": _ours(HALF, rho=1.0, reuse_grad=True),
        "normball, average": _ours(HALF, rho=1.0, average=0.1),
        "normball, Nonic in float32": _ours(Nonic(), rho=1.0),
    }
    try:
        from gram_newton_schulz import Muon as Gram
    except ImportError:
        return makes, ["gram-newton-schulz"]
    kernels = device.type == "cuda" and importlib.util.find_spec("quack") is not None
    makes["gram-newton-schulz" if kernels else GRAM_PLAIN] = lambda p: _Beside(
        lambda hidden: Gram(hidden, ns_use_kernels=kernels), p
    )
    return makes, []


def gemm_rate(size: int, device: torch.device, rounds: int) -> float:
    """Return operations per second of a square product in float16, the best of `rounds`."""
    x = torch.randn(size, size, device=device).half()
    times = work.interleave({"product": _waited(lambda: x @ x, device)}, rounds)["product"]
    return 2 * size**3 / min(times)


def measure(name: str, device: torch.device, rounds: int) -> Iterator[Row]:
    """Yield a row for each optimizer on one model, and one for rivals that are absent."""
    model = MODELS[name]
    shapes = model.shapes()
    makes, absent = optimizers(device)
    rate = gemm_rate(model.gemm, device, max(rounds, 3))
    tokens, ms = _backward(model, device, max(2, rounds // 4))  # before states fill the memory
    flops = floor.half_flops(shapes[:-1])
    yield {
        "case": "floor",
        "model": name,
        "parameters": sum(m * n for m, n in shapes),
        "float16_tflops_per_s": round(rate / 1e12, 3),
        "factors_ms": round(1e3 * flops / rate, 3),
    }
    params = [nn.Parameter(p.detach().to(device)) for p in work.parameters(shapes)]
    for p in params:
        p.grad = torch.randn_like(p)
    steps: dict[str, Callable[[], object]] = {}
    peaks: dict[str, float] = {}
    for label, make in makes.items():
        step = make(params).step
        step()  # makes the state
        peaks[label] = _peak(step, params, device)
        steps[label] = _waited(step, device)
    if device.type == "cuda":
        graph = _captured(_ours(HALF, rho=1.0, capturable=True)(params))
        steps["normball, as a CUDA graph"] = _waited(graph.replay, device)
    found = work.summary(work.interleave(steps, rounds), REFERENCE)
    for label, row in found.items():
        more: Row = {"peak_bytes_per_parameter": peaks[label]} if label in peaks else {}
        if label.startswith("normball") and "float32" not in label:
            more["of_gemm_peak"] = round(flops / rate / (row["ms"] / 1e3), 3)
        yield {"case": "step", "model": name, "name": label, **row, **more}
    share = found["normball"]["ms"] / found["normball, unclipped"]["ms"] - 1
    yield {"case": "clipping", "model": name, "overhead": round(share, 4)}
    whole = ms * _BATCH / tokens
    yield {
        "case": "training",
        "model": name,
        "forward_and_backward_ms": round(ms, 2),
        "tokens": tokens,
        "shares_of_the_step": {
            label: round(row["ms"] / (whole + row["ms"]), 5) for label, row in found.items()
        },
    }
    yield {"case": "absent", "peers": absent}


def _backward(model: Model, device: torch.device, rounds: int) -> tuple[int, float]:
    """Return the tokens of one forward and backward pass in bfloat16 autocast, and its time."""
    count, length = (16, 1024) if device.type == "cuda" else (1, 32)
    heads = max(1, model.width // 128)
    gpt = GPT(vocabulary=model.vocabulary, dim=model.width, depth=model.layers, heads=heads)
    gpt = gpt.to(device)
    tokens = torch.randint(model.vocabulary, (count, length + 1), device=device)

    def run() -> None:
        with torch.autocast(device.type, torch.bfloat16):
            logits = gpt(tokens[:, :-1])
        nn.functional.cross_entropy(
            logits.flatten(0, 1).float(), tokens[:, 1:].flatten()
        ).backward()

    times = work.interleave({"backward": _waited(run, device)}, rounds)["backward"]
    return count * length, 1e3 * min(times)


def _waited(step: Callable[[], object], device: torch.device) -> Callable[[], object]:
    def run() -> None:
        step()
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    return run


def _peak(step: Callable[[], object], params: Params, device: torch.device) -> float:
    """Return what a step needs beyond what was there, in bytes per parameter; 0 on a CPU."""
    if device.type != "cuda":
        step()
        return 0.0
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    step()
    torch.cuda.synchronize(device)
    more = torch.cuda.max_memory_allocated(device) - before
    return round(more / sum(p.numel() for p in params), 3)


def _captured(optimizer: torch.optim.Optimizer) -> torch.cuda.CUDAGraph:
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            optimizer.step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        optimizer.step()
    return graph


def main(arguments: list[str] | None = None) -> None:
    """Measure and print, or say what is missing."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("models", nargs="*", metavar="MODEL", help="of 124M, 1B, tiny; 124M and 1B")
    parser.add_argument("--device", default="cuda", help="cuda, or cpu to see a tiny one run")
    parser.add_argument("--rounds", type=int, default=20, help="timed rounds of each (default 20)")
    parser.add_argument("--out", type=Path, help="folder; results/speed/<date>-gpu by default")
    options = parser.parse_args(arguments)
    models = options.models or ["124M", "1B"]
    unknown = sorted(set(models) - set(MODELS))
    if unknown:
        parser.error(f"unknown model {unknown[0]!r}: one of {', '.join(MODELS)}")
    if options.rounds < 2:
        parser.error("--rounds must be at least 2, for a spread")
    device = torch.device(options.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        parser.error(
            "no CUDA device is there, and this measures a GPU: run it on a machine with one, or "
            "see that it runs with `--device cpu tiny`"
        )
    today = datetime.date.today().isoformat()
    out: Path = options.out or Path("results/speed") / f"{today}-gpu"
    out.mkdir(parents=True, exist_ok=True)
    hardware = torch.cuda.get_device_name(device) if device.type == "cuda" else machine()
    about = {"date": today, "machine": hardware, "versions": peers.versions()}
    torch.manual_seed(0)
    with (out / "rows.jsonl").open("a", encoding="utf-8") as file:
        for name in models:
            for row in measure(name, device, options.rounds):
                file.write(json.dumps(row | about | {"rounds": options.rounds}) + "\n")
                file.flush()
                print(*(f"{key}={value}" for key, value in row.items()), sep="  ", flush=True)


if __name__ == "__main__":
    main()
