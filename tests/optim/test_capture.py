"""What a CUDA graph asks of a step, on tensors that need no GPU.

A tape runs the operations of one step again without its Python, as a graph does; fake CUDA tensors
have devices and no values, so whatever waits for a value or mixes devices fails.
"""

import copy

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from normball import ClippedScion
from normball.norms import RMS, Blocks, Nuclear, Row, Schatten, Sign, Spectral, Transposed
from normball.optim import capture
from normball.polar import SVD, Eigh, PolarExpress, choose
from tests.optim.network import build, loss, train
from tests.optim.optimizers import GIVEN
from tests.optim.tape import Tape, flags_unknown

pytestmark = pytest.mark.filterwarnings("ignore:.*(starts|is) outside")
every = pytest.mark.parametrize("row", GIVEN, ids=str)


def gradients(model, step):
    """Write the gradients of one batch into the memory that they have."""
    grads = torch.autograd.grad(loss(model, step), list(model.parameters()))
    for p, g in zip(model.parameters(), grads, strict=True):
        p.grad = g.clone() if p.grad is None else p.grad.copy_(g)


def on(device, model):
    """Replace the parameters by fake ones on a device."""
    for module in model.modules():
        for name, p in module.named_parameters(recurse=False):
            setattr(module, name, nn.Parameter(torch.empty(p.shape, device=device)))


@every
@pytest.mark.parametrize("reuse", [False, True])
@flags_unknown()
def test_a_replayed_step_is_a_step(row, reuse):
    """With other gradients, another lr and rho, and a gradient that is not finite in between."""
    model, other = build(torch.float32), build(torch.float32)
    polar = PolarExpress()
    ours = row(row.groups(model, polar), 0.03, capturable=True, reuse_grad=reuse)
    theirs = row(row.groups(other, polar), 0.03)
    tape = Tape()
    for step in range(6):
        for m in (model, other):
            gradients(m, step)
            if step == 4:
                m.head.bias.grad[0] = float("nan")
        for optimizer in (ours, theirs):
            for group in optimizer.param_groups:
                lr = 0.03 / (1 + step)
                if isinstance(group["lr"], torch.Tensor):
                    group["lr"].fill_(lr)
                else:
                    group["lr"] = lr
                if "rho" in group and isinstance(group["rho"], torch.Tensor):
                    group["rho"].fill_(1.0 + step)
                elif "rho" in group:
                    group["rho"] = 1.0 + step
        theirs.step()
        if step < 2:
            ours.step()
        elif step == 2:
            with tape:
                ours.step()
        else:
            with torch.no_grad():
                tape.replay()
        for p, q in zip(model.parameters(), other.parameters(), strict=True):
            assert torch.equal(p, q)
        for name, value in theirs.metrics().items():
            assert torch.equal(ours.metrics()[name], value), name
    assert int(ours.metrics()["skipped"]) == 1


@every
def test_a_step_on_fake_tensors_of_a_cpu(row):
    """As for counting memory before there is any: no value that one could branch on."""
    model = build(torch.float32)
    with FakeTensorMode():
        on("cpu", model)
        optimizer = row(row.groups(model, PolarExpress()))
        # As after the first step, which reads the norms of a constrained start.
        optimizer._known.inside = {
            p: g["radius"] for g in optimizer.param_groups for p in g["params"]
        }
        for p in model.parameters():
            p.grad = torch.zeros_like(p)
        optimizer.step()
        assert optimizer.metrics()["step_factor"].shape == ()


@every
def test_a_step_on_a_gpu_waits_for_nothing_and_sends_nothing(row):
    model = build(torch.float32)
    with FakeTensorMode():
        on("cuda", model)
        optimizer = row(row.groups(model, PolarExpress()), capturable=True)
        # As after the first step, which reads the norms of a constrained start.
        optimizer._known.inside = {
            p: g["radius"] for g in optimizer.param_groups for p in g["params"]
        }
        for _ in range(2):
            for p in model.parameters():
                p.grad = torch.zeros_like(p)
            optimizer.step()
        with Tape() as tape:
            optimizer.step()
            found = optimizer.metrics()
        assert tape.calls
        assert {value.device.type for value in found.values()} == {"cuda"}
        assert optimizer.param_groups[0]["lr"].device.type == "cuda"


@pytest.mark.parametrize("shape", [(40, 40), (300, 700), (3, 130, 200), (200, 64)], ids=str)
@pytest.mark.parametrize("half", [False, True])
def test_the_default_factor_on_a_gpu_can_be_captured(shape, half, monkeypatch):
    monkeypatch.setattr(choose, "_multiplies_half", lambda device: half)
    with FakeTensorMode(), Tape():
        Spectral().lmo_and_dual(torch.empty(shape, device="cuda"))


NORMS = [Spectral(polar=SVD()), Spectral(polar=Eigh()), Nuclear(), Schatten(3.0)]
NORMS += [Blocks(Spectral(polar=SVD()), 2), Transposed(Nuclear())]


@pytest.mark.parametrize("norm", NORMS, ids=str)
def test_norms_that_wait_for_the_device_are_refused(norm):
    with FakeTensorMode():
        p = nn.Parameter(torch.empty(4, 4, device="cuda"))
        with pytest.raises(ValueError, match=r"waits for the device .* PolarExpress"):
            ClippedScion([{"params": [p], "norm": norm}], 0.1, rho=1.0, capturable=True)
        ClippedScion([{"params": [p], "norm": norm}], 0.1, rho=1.0)
    q = nn.Parameter(torch.ones(4, 4))
    ClippedScion([{"params": [q], "norm": norm}], 0.1, rho=1.0, capturable=True)


@pytest.mark.parametrize("norm", [RMS(), Sign(), Row(), Spectral(), Blocks(Spectral(), 2)], ids=str)
def test_others_are_not(norm):
    with FakeTensorMode():
        p = nn.Parameter(torch.empty(4, 4, device="cuda"))
        ClippedScion([{"params": [p], "norm": norm}], 0.1, rho=1.0, capturable=True)


def test_tensors_elsewhere_are_refused():
    with FakeTensorMode():
        p = nn.Parameter(torch.empty(4, device="cuda"))
    with pytest.raises(ValueError, match=r"lr is a tensor on cpu, .* on cuda.*: create it there"):
        ClippedScion([p], torch.tensor(0.1), rho=1.0, capturable=True)


def test_ranks_that_exchange_data_are_refused(monkeypatch):
    p = nn.Parameter(torch.ones(4))
    with pytest.raises(ValueError, match="capturable=True and split=True exclude each other"):
        ClippedScion([p], 0.1, rho=1.0, capturable=True, split=True)
    monkeypatch.setattr(capture.parallel, "is_sharded", lambda x: True)
    with pytest.raises(ValueError, match="takes no sharded parameters"):
        ClippedScion([p], 0.1, rho=1.0, capturable=True)


@pytest.fixture
def recording(monkeypatch):
    """As between `graph.capture_begin` and `capture_end`, once it is switched on."""
    now = [False]
    monkeypatch.setattr(capture, "recording", lambda: now[0])
    return now


@every
def test_what_cannot_be_captured_is_refused(row, recording):
    model = build(torch.float32)
    optimizer = row(row.groups(model, PolarExpress()))
    train(model, optimizer, 1)
    recording[0] = True
    with pytest.raises(RuntimeError, match="build the optimizer with capturable=True"):
        train(model, optimizer, 1)

    optimizer = row(row.groups(model, PolarExpress()), capturable=True)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(RuntimeError, match=r"have not taken a step .* before capturing"):
        train(model, optimizer, 1)
    assert all(torch.equal(before[name], x) for name, x in model.state_dict().items())
    assert not optimizer.state

    recording[0] = False
    train(model, optimizer, 1)
    recording[0] = True
    train(model, optimizer, 1)  # now it can
    optimizer.param_groups[1]["lr"] = 0.1
    with pytest.raises(ValueError, match=r"lr=0\.1 is a plain number, .*fill_\(0\.1\)|same tensor"):
        train(model, optimizer, 1)


def test_a_state_that_was_loaded_wants_a_step_first(recording):
    params = [nn.Parameter(torch.ones(3)) for _ in range(4)]
    optimizer = ClippedScion([{"params": params, "norm": RMS()}], 0.1, rho=1.0, capturable=True)
    for p in params:
        p.grad = torch.ones(3)
    optimizer.step()
    optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    recording[0] = True
    with pytest.raises(RuntimeError, match="have not taken a step with this state"):
        optimizer.step()


def test_counts_are_made_before(recording):
    """With nothing else to make: no momentum, no ball."""
    p = nn.Parameter(torch.ones(3))
    p.grad = torch.ones(3)
    optimizer = ClippedScion([p], 0.1, rho=1.0, alpha=1.0, capturable=True)
    recording[0] = True
    with pytest.raises(RuntimeError, match="take one with the same gradients"):
        optimizer.step()
