"""The measurements: each yields rows, one per thing that was measured."""

import gc
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any

import torch
from torch import nn

from benchmarks import floor, peers, work
from benchmarks.memory import Live
from normball import ClippedScion, Scion
from normball.norms import RMS
from normball.polar import SVD, Auto, Eigh, NewtonSchulz, Nonic, Polar, PolarExpress

Row = dict[str, Any]

REFERENCE = "torch.optim.Muon"
FACTORS: dict[str, Polar] = {
    REFERENCE: NewtonSchulz(),  # replaced by torch's own function below
    "NewtonSchulz(5)": NewtonSchulz(),
    "PolarExpress(6)": PolarExpress(),
    "Nonic": Nonic(),
    "Eigh": Eigh(),
    "SVD": SVD(),
}
SIZES = [(128, 128), (256, 256), (384, 384), (512, 512), (1024, 1024)]
SIZES += [(256, 1024), (384, 1536), (768, 3072), (1536, 384)]


def steps(rounds: int) -> Iterator[Row]:
    """Time of `optimizer.step` on each work, against torch.optim.Muon in fp32."""
    rivals, absent = peers.rivals()
    for name, shapes in work.WORKS.items():
        embedded = max(shapes)[0] == work.EMBEDDING
        makes = peers.OURS | {k: v for k, v in rivals.items() if not embedded or k in _MIXED}
        if embedded:
            makes[REFERENCE] = _muon_and_adamw
        yield from _times({"case": "step", "work": name}, shapes, makes, rounds)
        matrices = [s for s in shapes if s[0] != work.EMBEDDING]
        rate = floor.gemm_rate(min(matrices[0]))
        yield {
            "case": "floor",
            "work": name,
            "gflops_per_s": round(rate / 1e9, 1),
            "muon_ms": round(1e3 * floor.muon_flops(matrices) / rate, 1),
            "nonic_ms": round(1e3 * floor.polynomial_flops(matrices) / rate, 1),
            "eigh_ms": round(1e3 * floor.eigh_flops(matrices) / rate, 1),
        }
    yield {"case": "absent", "peers": absent}


# Rivals that know what to do with an embedding; AdamW takes it beside Muon.
_MIXED = ("AdamW, fused",)


class _Both:
    """Muon for the matrices and AdamW for the embedding, as torch's documentation advises."""

    def __init__(self, params: list[nn.Parameter]) -> None:
        matrices = [p for p in params if p.shape[0] != work.EMBEDDING]
        rest = [p for p in params if p.shape[0] == work.EMBEDDING]
        self.parts = [peers.muon(matrices), torch.optim.AdamW(rest, 1e-3, foreach=True)]

    def step(self) -> None:
        for part in self.parts:
            part.step()

    @property
    def state(self) -> dict[Any, Any]:
        return {p: s for part in self.parts for p, s in part.state.items()}


_muon_and_adamw: Any = _Both


def stock(rounds: int) -> Iterator[Row]:
    """torch.optim.Muon as it is, with its bfloat16 products: slow without them in hardware."""
    shapes = work.transformer(384)
    makes = {REFERENCE: peers.muon, "torch.optim.Muon, stock": peers.muon}
    yield from _times({"case": "stock", "work": "one layer, d=384"}, shapes, makes, rounds)


def clipping(rounds: int) -> Iterator[Row]:
    """What the global number adds to a step: the same step with and without a threshold."""
    from normball.norms import Spectral

    def plain(params: list[nn.Parameter]) -> torch.optim.Optimizer:
        return Scion([{"params": params, "norm": Spectral("rms", Eigh())}], 1e-3)

    makes = {"without": plain, "with": peers.scion(Eigh())}
    yield from _times({"case": "clipping", "work": "a"}, work.WORKS["a"], makes, rounds, "without")


def recipe(rounds: int) -> Iterator[Row]:
    """What the look-ahead and the averaged weights add to the step of the paper."""
    first = "the paper's"
    makes = {
        first: peers.scion(Auto(), nesterov=False),
        "looking ahead": peers.scion(Auto()),
        "and averaging": peers.scion(Auto(), average=0.1),
    }
    yield from _times(
        {"case": "recipe", "work": "a"}, work.WORKS["a"], makes, rounds, "the paper's"
    )


def small(rounds: int) -> Iterator[Row]:
    """200 parameters of 256 elements: nothing to compute, all overhead."""
    shapes: work.Shapes = [(256,)] * 200
    makes: dict[str, Any] = {
        "AdamW, loop": lambda p: torch.optim.AdamW(p, 1e-3, foreach=False),
        "AdamW, foreach": lambda p: torch.optim.AdamW(p, 1e-3, foreach=True),
        "AdamW, fused": lambda p: torch.optim.AdamW(p, 1e-3, fused=True),
        "normball, RMS": lambda p: ClippedScion([{"params": p, "norm": RMS()}], 1e-3, rho=1.0),
    }
    rows = list(_times({"case": "small"}, shapes, makes, 5 * rounds, "AdamW, fused"))
    for row in rows:
        row["us_per_parameter"] = round(1e3 * row["ms"] / len(shapes), 2)
    yield from rows


def memory() -> Iterator[Row]:
    """State, and the most that a step holds beyond parameters, gradients and state; counted."""
    for name in ("a", "a+emb"):
        shapes = work.WORKS[name]
        makes = peers.OURS | peers.FRUGAL | {"AdamW, fused": peers.rivals()[0]["AdamW, fused"]}
        embedded = max(shapes)[0] == work.EMBEDDING
        makes[REFERENCE] = _muon_and_adamw if embedded else peers.muon
        for label, make in makes.items():
            params = work.parameters(shapes)
            optimizer = make(params)
            # It would make a momentum in few bits one of 32, too.
            plain = nullcontext() if label in peers.FRUGAL else peers.Float32()
            with plain:
                optimizer.step()
            count = sum(p.numel() for p in params)
            held = [
                x
                for s in optimizer.state.values()
                for x in s.values()
                if isinstance(x, torch.Tensor)
            ]
            state = sum(x.numel() * x.element_size() for x in held)
            known = [*params, *(p.grad for p in params if p.grad is not None), *held]
            gc.collect()
            with Live(known) as live, plain:
                optimizer.step()
            yield {
                "case": "memory",
                "work": name,
                "name": label,
                "state_bytes_per_parameter": round(state / count, 3),
                "peak_bytes_per_parameter": round((state + live.peak) / count, 3),
            }


def factors(rounds: int) -> Iterator[Row]:
    """The polar factor by shape, against torch.optim.Muon's function in fp32 and the products."""
    from torch.optim._muon import _zeropower_via_newtonschulz as theirs

    for m, n in SIZES:
        x = torch.randn(m, n)

        def reference(x: torch.Tensor = x) -> None:
            with peers.Float32():
                theirs(x, (3.4445, -4.7750, 2.0315), 5, 1e-7)

        calls: dict[str, Callable[[], Any]] = {REFERENCE: reference}
        for name, polar in FACTORS.items():
            if name != REFERENCE and (name != "SVD" or max(m, n) <= 512):
                calls[name] = lambda polar=polar, x=x: polar(x)
        rate = floor.gemm_rate(min(m, n))
        flops = {
            REFERENCE: floor.muon_flops([(m, n)]),
            "Nonic": floor.polynomial_flops([(m, n)]),
            "Eigh": floor.eigh_flops([(m, n)]),
        }
        for name, row in work.summary(work.interleave(calls, rounds), REFERENCE).items():
            more = (
                {"of_floor": round(row["ms"] * rate / 1e3 / flops[name], 2)}
                if name in flops
                else {}
            )
            yield {"case": "factor", "shape": f"{m}x{n}", "name": name, **row, **more}


def batches(rounds: int) -> Iterator[Row]:
    """Equal small matrices stacked, against one after the other."""
    for m, count in ((16, 256), (32, 128), (64, 32), (128, 16), (256, 4)):
        x = torch.randn(count, m, m)
        for polar in (Eigh(), Nonic()):
            calls: dict[str, Callable[[], Any]] = {
                "loop": lambda polar=polar, x=x: [polar(one) for one in x],
                "stack": lambda polar=polar, x=x: polar(x),
            }
            for name, row in work.summary(work.interleave(calls, rounds), "loop").items():
                yield {
                    "case": "batch",
                    "shape": f"{count}x{m}x{m}",
                    "name": f"{polar}, {name}",
                    **row,
                }


def growth(rounds: int) -> Iterator[Row]:
    """The step's time as width, depth and the number of parameters grow, beside its operations."""
    axes: dict[str, list[tuple[int, work.Shapes]]] = {
        "width": [(d, work.transformer(d)) for d in (128, 256, 384, 512, 768)],
        "depth": [(k, work.transformer(256, k)) for k in (1, 2, 4, 8)],
        "parameters": [(k, [(64, 64)] * k) for k in (8, 32, 128, 512)],
    }
    flops = {
        REFERENCE: floor.muon_flops,
        "normball": floor.default_flops,
        "normball, Nonic": floor.polynomial_flops,
    }
    makes = {name: peers.OURS.get(name, peers.muon) for name in flops}
    for axis, points in axes.items():
        for value, shapes in points:
            start = {"case": "growth", "axis": axis, "value": value}
            for row in _times(start, shapes, makes, rounds):
                yield row | {"gflop": round(flops[row["name"]](shapes) / 1e9, 4)}


def _times(
    start: Row, shapes: work.Shapes, makes: dict[str, Any], rounds: int, against: str = REFERENCE
) -> Iterator[Row]:
    params = {name: work.parameters(shapes) for name in makes}
    grads = [p.grad.clone() for p in next(iter(params.values())) if p.grad is not None]
    with peers.eager():
        optimizers = {name: make(params[name]) for name, make in makes.items()}

    def call(name: str) -> Callable[[], object]:
        def step() -> None:
            with nullcontext() if "stock" in name else peers.Float32():
                optimizers[name].step()

        return step if name.startswith(REFERENCE) or name in peers.PEERS else optimizers[name].step

    calls = {name: call(name) for name in optimizers}
    with peers.eager():
        times = work.interleave(calls, rounds, lambda name: work.refill(params[name], grads))
    for name, row in work.summary(times, against).items():
        yield {**start, "name": name, **row}
