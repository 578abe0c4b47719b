"""Training on Apple's GPUs needs neither float64 nor `eigh` there: shown on a stand-in, `mps.py`.

The same steps on the CPU are the oracle. Its figures are float64, the stand-in's float32.
"""

import pytest
import torch

from normball import ClippedScion, SmoothnessProbe, find_lr, init_, project_
from normball.norms import Nuclear, Spectral
from normball.polar import Auto, Eigh, Nonic, PolarExpress
from tests.mps import MPS, OnMPS, StandIn
from tests.optim.network import build
from tests.optim.optimizers import LAYERED, OPTIMIZERS, Row

MORE = [
    Row(row.make, f"{row.name}-{name}", row.options | options)
    for row in LAYERED
    if row.name in ("clipped", "short-step-1")
    for name, options in {
        "capturable": {"capturable": True},
        "in-gradients": {"reuse_grad": True},
    }.items()
]
STEPS = 3
# A figure of a step comes from some dozens of operations, each rounded to half of this.
ROUNDINGS = 64 * torch.finfo(torch.float32).eps


@pytest.fixture(autouse=True)
def _device():
    with StandIn():
        yield


def gradients(params, seed):
    chance = torch.Generator().manual_seed(seed)
    return [torch.randn(p.shape, generator=chance) * 3.0**-seed for p in params]


def stepped(row, place):
    """Take a few steps with tensors that `place` puts on a device; return weights and metrics."""
    model = build(torch.float32)
    for module in model.modules():
        for name, p in list(module.named_parameters(recurse=False)):
            setattr(module, name, torch.nn.Parameter(place(p.detach())))
    optimizer = row(row.groups(model, Nonic()), row.learns_at)
    params = list(model.parameters())
    for step in range(STEPS):
        for p, g in zip(params, gradients(params, step), strict=True):
            p.grad = place(g)
        optimizer.step()
    return [p.detach().cpu() for p in params], optimizer


@pytest.mark.filterwarnings("ignore:.*outside:UserWarning")
@pytest.mark.parametrize("row", OPTIMIZERS + MORE, ids=str)
def test_the_steps_are_those_of_the_cpu(row):
    theirs, reference = stepped(row, lambda x: x)
    ours, optimizer = stepped(row, OnMPS)
    for a, b in zip(ours, theirs, strict=True):
        assert (a - b).abs().max() <= STEPS * ROUNDINGS * b.abs().max()
    expected = reference.metrics()
    for name, value in optimizer.metrics().items():
        assert value.dtype == torch.float32
        assert torch.allclose(value.cpu().double(), expected[name], rtol=STEPS * ROUNDINGS, atol=0)
    again = optimizer.state_dict()
    optimizer.load_state_dict(again)
    optimizer.step()


def test_a_step_size_that_is_a_tensor_lies_beside_a_measured_threshold():
    found = []
    for place in (lambda x: x, OnMPS):
        p = torch.nn.Parameter(place(torch.ones(4, 3)))
        lr = place(torch.tensor(0.1))
        optimizer = ClippedScion([{"params": [p], "norm": Spectral()}], lr, rho="auto")
        for step in range(STEPS):
            (g,) = gradients([p], step)
            p.grad = place(g)
            optimizer.step()
        found.append(p.detach().cpu())
    assert (found[0] - found[1]).abs().max() <= STEPS * ROUNDINGS * found[0].abs().max()


@pytest.mark.parametrize("polar", [Eigh(), Nonic(), PolarExpress(), Auto()], ids=repr)
def test_factors(polar):
    x = torch.randn(2, 24, 40, generator=torch.Generator().manual_seed(0))
    factor, nuclear = polar(OnMPS(x))
    expected, sizes = polar(x)
    assert torch.allclose(factor.cpu(), expected, atol=ROUNDINGS)
    assert torch.allclose(nuclear.cpu(), sizes, rtol=ROUNDINGS)


def test_a_decomposition_that_fails_is_repeated_in_double_precision_elsewhere(monkeypatch):
    x = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
    expected = Nuclear().lmo(x)
    really = torch.linalg.svd

    def fails_in_single(a, **options):
        if a.dtype == torch.float32:
            raise torch.linalg.LinAlgError("did not converge")
        return really(a, **options)

    monkeypatch.setattr(torch.linalg, "svd", fails_in_single)
    found = Nuclear().lmo(OnMPS(x))
    assert found.device == MPS
    assert torch.allclose(found.cpu(), expected, atol=ROUNDINGS)


def test_starts_projections_and_probes():
    p = torch.nn.Parameter(OnMPS(torch.ones(6, 4)))
    optimizer = ClippedScion([{"params": [p], "norm": Spectral(), "radius": 2.0}], 0.1, rho=1.0)
    init_(optimizer)
    assert float(Spectral().norm(p.detach().cpu())) == pytest.approx(2.0, rel=0.01)
    with torch.no_grad():
        p.mul_(3.0)
    project_(optimizer)
    assert float(Spectral().norm(p.detach().cpu())) == pytest.approx(2.0, rel=0.01)
    probe = SmoothnessProbe(optimizer, every=1)
    for _ in range(4):
        probe.step(lambda: _loss(p))
    assert probe.fit().count == 4
    curve = find_lr(optimizer, lambda: _loss(p), steps=20)
    assert curve.suggestion > 0


def _loss(p):
    p.grad = OnMPS(p.detach().inner)
    return float(p.detach().inner.square().sum()) / 2


def test_the_stand_in_refuses_what_the_device_does():
    x = torch.ones(3, 3, device=MPS)
    refused = {
        "double": lambda: x.double(),
        "sum": lambda: x.sum(dtype=torch.float64),
        "new": lambda: x.new_zeros(2, dtype=torch.float64),
        "zeros": lambda: torch.zeros(2, dtype=torch.float64, device=MPS),
        "moved": lambda: torch.zeros(2, dtype=torch.float64).to(MPS),
        "eigh": lambda: torch.linalg.eigh(x),
        "mixed": lambda: x + torch.ones(3, 3),
    }
    for name, make in refused.items():
        with pytest.raises((TypeError, NotImplementedError, RuntimeError), match="mps"):
            pytest.fail(f"{name} gave {make()}")
    assert float((x + torch.tensor(1.0)).sum()) == 18
