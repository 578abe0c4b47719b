"""The parameters that are stepped, and the clock."""

import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

Shapes = list[tuple[int, ...]]
Step = Callable[[], object]


def transformer(width: int, layers: int = 1) -> Shapes:
    """The matrices of GPT layers: fused q, k, v, projection, and both of the MLP."""
    layer = [(3 * width, width), (width, width), (4 * width, width), (width, 4 * width)]
    return layer * layers


WORKS: dict[str, Shapes] = {
    "a": transformer(384, 6),
    "b": transformer(768),
    "a+emb": [*transformer(384, 6), (50304, 384)],
}
EMBEDDING = 50304


def parameters(shapes: Shapes) -> list[nn.Parameter]:
    """Parameters with gradients, the same in every call."""
    generator = torch.Generator().manual_seed(0)
    made = []
    for shape in shapes:
        p = nn.Parameter(0.02 * torch.randn(shape, generator=generator))
        p.grad = torch.randn(shape, generator=generator)
        made.append(p)
    return made


def refill(params: list[nn.Parameter], grads: list[Tensor]) -> None:
    """Write fresh values into the gradients, which a step may have overwritten or freed."""
    for p, g in zip(params, grads, strict=True):
        if p.grad is None:  # heavyball frees it
            p.grad = g.clone()
        else:
            p.grad.copy_(g)


def interleave(
    steps: dict[str, Step],
    rounds: int,
    before: Callable[[str], None] | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Time every step once per round, all in one process; seconds. Round 0 warms up.

    A machine that others use slows down for minutes: only neighbours in time can be compared.
    """
    times: dict[str, list[float]] = {name: [] for name in steps}
    for i in range(rounds + 1):
        for name, step in steps.items():
            if before is not None:
                before(name)
            start = clock()
            step()
            if i:
                times[name].append(clock() - start)
    return times


def summary(times: dict[str, list[float]], against: str) -> dict[str, dict[str, float]]:
    """Ratio of medians first, then the median and the quartiles in milliseconds."""
    base = statistics.median(times[against])
    rows = {}
    for name, values in times.items():
        low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
        rows[name] = {
            "ratio": round(middle / base, 4),
            "ms": round(1e3 * middle, 3),
            "ms_q1": round(1e3 * low, 3),
            "ms_q3": round(1e3 * high, 3),
        }
    return rows
