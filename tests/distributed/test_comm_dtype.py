"""Matrices sent in 16 bits, against one process that rounds them."""

import pytest
import torch
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from normball import ClippedScion, Scion
from normball.norms import Spectral
from tests.distributed.launch import launch

SHAPES = [(6, 10), (10, 6), (7, 7)]
STEPS, ALPHA, LR, RHO, RADIUS = 5, 0.2, 0.03, 2.0, 3.0


class Held(nn.Module):
    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        tensors = [torch.randn(s, generator=generator, dtype=torch.float64) for s in SHAPES]
        self.weights = nn.ParameterList(map(nn.Parameter, tensors))

    def forward(self, step):
        generator = torch.Generator().manual_seed(step)
        targets = [torch.randn(s, generator=generator, dtype=torch.float64) for s in SHAPES]
        return sum((w - t).square().sum() for w, t in zip(self.weights, targets, strict=True)) / 2


def run(way):
    model = Held()
    wrapped = DistributedDataParallel(model) if way == "split" else fully_shard(model)
    groups = [{"params": list(model.parameters()), "norm": Spectral(), "radius": RADIUS}]
    optimizer = ClippedScion(
        groups, LR, rho=RHO, alpha=ALPHA, split=way == "split", comm_dtype=torch.bfloat16
    )
    for step in range(STEPS):
        optimizer.zero_grad()
        wrapped(step).backward()
        optimizer.step()
    full = [p.full_tensor() if way == "fsdp" else p for p in model.parameters()]
    return [p.detach() for p in full], float(optimizer.metrics()["dual_norm"])


def everything():
    return {way: run(way) for way in ("fsdp", "split")}


def reference(rounds_estimates):
    """Rounded to bfloat16 before and after the exact polar factor, in float64 else."""
    model = Held()
    weights = [p.detach() for p in model.parameters()]
    momenta = [torch.zeros_like(w) for w in weights]
    for step in range(STEPS):
        model.zero_grad()
        model(step).backward()
        minimisers, dual = [], 0.0
        for i, p in enumerate(model.parameters()):
            momenta[i] = (1 - ALPHA) * momenta[i] + ALPHA * p.grad
            e = (1 - ALPHA) * momenta[i] + ALPHA * p.grad
            e = e.bfloat16().double() if rounds_estimates else e
            u, s, vh = torch.linalg.svd(e, full_matrices=False)
            scale = (p.shape[0] / p.shape[1]) ** 0.5
            minimisers.append((scale * u @ vh).bfloat16().double())
            dual += RADIUS * scale * float(s.sum())
        for w, v in zip(weights, minimisers, strict=True):
            w -= LR * min(1, dual / RHO) * RADIUS * v
    return weights, dual


@pytest.fixture(scope="module", params=[2, 3])
def results(request, tmp_path_factory):
    return launch(everything, request.param, tmp_path_factory.mktemp("comm") / "run")


@pytest.mark.parametrize("way", ["fsdp", "split"])
def test_rounded_matrices_are_those_of_one_process(results, way):
    # Under DDP every rank holds the estimate, so only minimisers are sent.
    weights, dual = reference(rounds_estimates=way == "fsdp")
    for found in results:
        for p, q in zip(found[way][0], weights, strict=True):
            # A value next to the middle of two numbers of 16 bits may be rounded either way.
            assert float((p - q).abs().max()) <= 2 * LR * RADIUS * STEPS * 2**-8
            assert float((p - q).norm()) <= 1e-3 * LR * RADIUS * STEPS * p.numel() ** 0.5
        assert found[way][1] == pytest.approx(dual, rel=1e-4)
    for found in results[1:]:
        for p, q in zip(found[way][0], results[0][way][0], strict=True):
            assert torch.equal(p, q)


N = 256
SPECTRA = {
    "Gaussian": None,
    "1/i": 1 / torch.arange(1.0, N + 1),
    "1/i^2": 1 / torch.arange(1.0, N + 1) ** 2,
    "eight equal": torch.cat([torch.ones(8), torch.zeros(N - 8)]),
}


@pytest.mark.parametrize(
    ("spectrum", "stated"),
    [("Gaussian", 5e-5), ("1/i", 1e-4), ("1/i^2", 0.006), ("eight equal", 0.01)],
)
def test_the_error_of_the_dual_norm_that_the_page_states(spectrum, stated):
    """Rounding adds a matrix of full rank, which a matrix of low rank does not hide."""
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, N, N, generator=generator, dtype=torch.float64)
    values = SPECTRA[spectrum]
    d = a if values is None else torch.linalg.qr(a)[0] * values.double() @ torch.linalg.qr(b)[0]
    exact = float(torch.linalg.svdvals(d).sum())
    rounded = float(torch.linalg.svdvals(d.bfloat16().double()).sum())
    assert abs(rounded / exact - 1) <= stated


def test_refusals():
    p = nn.Parameter(torch.ones(2, 2))
    for make in (lambda **k: Scion([p], 0.1, **k), lambda **k: ClippedScion([p], **k)):
        with pytest.raises(ValueError, match=r"comm_dtype=torch\.int8 must be"):
            make(comm_dtype=torch.int8)
        with pytest.raises(ValueError, match="constrained=True and comm_dtype exclude"):
            make(comm_dtype=torch.bfloat16, constrained=True)
