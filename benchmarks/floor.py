"""The least that a factor must multiply, and how fast this machine multiplies."""

import statistics
import time
from functools import partial

import torch

from benchmarks.work import Shapes
from normball.polar import Auto, Half, Nonic


def muon_flops(shapes: Shapes, steps: int = 5) -> float:
    """Operations of the Newton-Schulz of torch.optim.Muon: `5 (4 n/m + 2) m^3` for wide m x n."""
    return sum(steps * (4 * max(s) * min(s) ** 2 + 2 * min(s) ** 3) for s in shapes)


def eigh_flops(shapes: Shapes) -> float:
    """Operations of the factor from an eigendecomposition.

    Half the products for the Gram matrix and the root, all for the last one, and `9 m^3` for the
    decomposition with vectors (reduction 4/3, divide and conquer 8/3 to 4, back-transform 2 to 4).
    """
    return sum(3 * max(s) * min(s) ** 2 + 10 * min(s) ** 3 for s in shapes)


def default_flops(shapes: Shapes) -> float:
    """Operations of the default factor on a CPU: of either kind, by size."""
    choice = partial(Auto.choice, torch.float32, torch.device("cpu"))
    return sum(choice(torch.Size(shape)).flops(*shape) for shape in shapes)


def polynomial_flops(shapes: Shapes) -> float:
    """Operations of the polynomial factor of degree nine, symmetric products at half price."""
    return sum(Nonic().flops(*shape) for shape in shapes)


def half_flops(shapes: Shapes) -> float:
    """Operations of the factor in float16, every product in full, as a GPU computes them."""
    return sum(Half().flops(*shape) for shape in shapes)


def gemm_rate(size: int, rounds: int = 7) -> float:
    """Operations per second of a square fp32 product, the median of `rounds`."""
    x = torch.randn(size, size)
    out = torch.empty_like(x)
    times = []
    for i in range(rounds + 1):
        start = time.perf_counter()
        torch.mm(x, x, out=out)
        if i:
            times.append(time.perf_counter() - start)
    return 2 * size**3 / statistics.median(times)
