"""Matrices that ranks compute together, beside one process: range, formats, shapes, refusals."""

import pytest
import torch
from torch import nn
from torch.distributed.fsdp import fully_shard

from normball import ClippedScion, Scion
from normball.norms import Spectral
from normball.polar import Eigh, Nonic
from tests import needs
from tests.distributed.launch import launch

# Along the longer side, along the shorter one, square, with empty parts; the last are large enough
# for the default to take `Eigh`, and for products by blocks.
SHAPES = [(24, 6), (6, 24), (8, 8), (1, 5), (5, 1), (300, 140), (130, 300)]
STEPS, LR, RHO = 3, 0.03, 2.0
CASES = {
    "plain": {},
    "double": {"dtype": torch.float64, "polar": Eigh()},
    "products": {"polar": Nonic()},
    "tiny": {"scale": 1e-30},
    "huge": {"scale": 1e30},
    "bfloat16": {"state_dtype": torch.bfloat16},
    "int8": {"state_dtype": torch.int8},
    "sent": {"comm_dtype": torch.bfloat16},
    "constrained": {"constrained": True},
}


class Held(nn.Module):
    def __init__(self, dtype):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        tensors = [torch.randn(s, generator=generator, dtype=torch.float64) for s in SHAPES]
        # Inside their balls.
        tensors = [x / 4 / (x.shape[0] ** 0.5 + x.shape[1] ** 0.5) for x in tensors]
        self.weights = nn.ParameterList(nn.Parameter(x.to(dtype)) for x in tensors)

    def forward(self, step, scale):
        generator = torch.Generator().manual_seed(step + 1)
        rows = [torch.randn(s, generator=generator, dtype=torch.float64) for s in SHAPES]
        terms = [(w * r.to(w.dtype)).sum() for w, r in zip(self.weights, rows, strict=True)]
        return scale * sum(terms)


def run(case, spread, make=ClippedScion):
    options = dict(CASES[case])
    dtype, scale = options.pop("dtype", torch.float32), options.pop("scale", 1.0)
    polar = options.pop("polar", None)
    norm = Spectral() if polar is None else Spectral(polar=polar)
    model = Held(dtype)
    wrapped = fully_shard(model) if spread else model
    if spread:
        options["ranks_per_matrix"] = spread
    else:
        options.pop("comm_dtype", None)
    groups = [{"params": list(model.parameters()), "norm": norm, "radius": 1.0}]
    if make is ClippedScion:
        options["rho"] = RHO * scale
    optimizer = make(groups, LR, **options)
    for step in range(STEPS):
        optimizer.zero_grad()
        wrapped(step, scale).backward()
        optimizer.step()
    full = [p.full_tensor() if spread else p for p in model.parameters()]
    return [p.detach() for p in full], float(optimizer.metrics()["gap" if "constrained" in options
            else "dual_norm"])  # fmt: skip


def first(count):
    """Return the dual norm of the first gradient itself."""
    model = Held(torch.float32)
    wrapped = fully_shard(model)
    groups = [{"params": list(model.parameters()), "norm": Spectral(), "radius": 1.0}]
    optimizer = ClippedScion(groups, LR, rho=RHO, alpha=1.0, ranks_per_matrix=count)
    wrapped(0, 1.0).backward()
    optimizer.step()
    return float(optimizer.metrics()["dual_norm"])


def everything(count):
    found = {case: run(case, count) for case in CASES}
    return found | {"scion": run("plain", count, Scion), "first": first(count)}


@pytest.fixture(scope="module", params=[(2, 2), (3, 3), (4, 2)], ids=str)
def results(request, tmp_path_factory):
    ranks, count = request.param
    return launch(everything, ranks, tmp_path_factory.mktemp("together") / "run", count)


EPS = {torch.float32: 2.0**-23, torch.float64: 2.0**-52}


@needs.fsdp_on_cpu
@pytest.mark.parametrize("case", [*CASES, "scion"])
def test_as_on_one_process(results, case):
    """Gaussian matrices, of condition 1e3 at most: `(m + n) eps` of the Gram matrix, times 1e3.

    Where matrices travel in 16 bits, rounding to half of `2**-8` is alike for all entries.
    """
    make = Scion if case == "scion" else ClippedScion
    wanted, size = run(case if case != "scion" else "plain", 0, make)
    for found, its_size in (rank[case] for rank in results):
        for p, q in zip(found, wanted, strict=True):
            coarse = case in ("bfloat16", "int8", "sent")
            tolerance = 2.0**-7 if coarse else sum(p.shape) * EPS[p.dtype] * 1e3
            limit = tolerance * LR * STEPS * (p.shape[0] / p.shape[1]) ** 0.5
            assert float(torch.linalg.matrix_norm((p - q).double(), 2)) <= limit, p.shape
        assert its_size == pytest.approx(size, rel=2e-2 if case == "sent" else 1e-3)
        if case == "double":
            assert its_size == pytest.approx(size, rel=1e-10)
    for rank in results[1:]:
        assert all(map(torch.equal, rank[case][0], results[0][case][0]))
        assert rank[case][1] == results[0][case][1]


def test_refusals():
    p = nn.Parameter(torch.ones(2, 2))
    for make in (lambda **k: Scion([p], 0.1, **k), lambda **k: ClippedScion([p], **k)):
        for wrong in (True, 2.0, "all"):
            with pytest.raises(TypeError, match=r"ranks_per_matrix=.* must be a whole number"):
                make(ranks_per_matrix=wrong)
        with pytest.raises(ValueError, match="ranks_per_matrix=0 must be at least 1"):
            make(ranks_per_matrix=0)


@needs.fsdp_on_cpu
def test_the_dual_norm_has_the_accuracy_of_one_process(results):
    """Against a float64 SVD of the first gradient: at most 0.2 % too small, 0.02 % too large."""
    model = Held(torch.float64)
    model(0, 1.0).backward()
    exact = sum(
        (p.shape[0] / p.shape[1]) ** 0.5 * float(torch.linalg.svdvals(p.grad).sum())
        for p in model.parameters()
    )
    for rank in results:
        assert -2e-3 <= rank["first"] / exact - 1 <= 2e-4
