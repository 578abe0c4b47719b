"""Step size and threshold as 0-d tensors, which a compiled or captured step reads at every run."""

import io

import pytest
import torch
from torch import nn

from normball import S3CG, ClippedScion
from normball.norms import Euclidean, Spectral
from tests.optim.network import bits, build, same, train
from tests.optim.optimizers import GIVEN

pytestmark = pytest.mark.filterwarnings("ignore:.*(starts|is) outside")
every = pytest.mark.parametrize("row", GIVEN, ids=str)


def double(value):
    return torch.tensor(value, dtype=torch.float64)


def tensors_of(row):
    """Return the options of a row with its threshold as a tensor, if it has one."""
    return {"rho": double(row.options["rho"])} if "rho" in row.options else {}


@every
def test_a_tensor_is_its_value(row):
    model, other = build(), build()
    lr = double(0.03)
    ours = row(row.groups(model), lr, **tensors_of(row))
    theirs = row(row.groups(other), 0.03)
    assert all(group["lr"] is lr for group in ours.param_groups)
    train(model, ours, 3)
    train(other, theirs, 3)
    assert same(bits(model), bits(other))
    lr.fill_(0.007)
    for group in theirs.param_groups:
        group["lr"] = 0.007
    if "rho" in row.options:
        ours.param_groups[0]["rho"].fill_(0.5)
        for group in theirs.param_groups:
            group["rho"] = 0.5
    train(model, ours, 3, start=3)
    train(other, theirs, 3, start=3)
    assert same(bits(model), bits(other))


@every
def test_a_tensor_of_one_entry_is_its_value(row):
    model, other = build(), build()
    lr = torch.tensor([0.03], dtype=torch.float64)
    ours = row(row.groups(model), lr, **tensors_of(row))
    theirs = row(row.groups(other), 0.03)
    train(model, ours, 3)
    train(other, theirs, 3)
    assert same(bits(model), bits(other))
    lr.fill_(float("nan"))
    train(model, ours, 1)
    assert same(bits(model), bits(other))
    assert int(ours.metrics()["skipped"]) == 1


SCHEDULERS = {
    "linear": lambda o: torch.optim.lr_scheduler.LinearLR(o, 1.0, 0.1, 5),
    "cosine": lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, 5),
    "step": lambda o: torch.optim.lr_scheduler.StepLR(o, 2, 0.5),
    "one cycle": lambda o: torch.optim.lr_scheduler.OneCycleLR(
        o, 0.02, total_steps=6, cycle_momentum=False
    ),
    "lambda": lambda o: torch.optim.lr_scheduler.LambdaLR(o, lambda k: 0.5**k),
}


@every
@pytest.mark.parametrize("name", SCHEDULERS)
@pytest.mark.parametrize("capturable", [False, True])
def test_schedulers_change_tensors_in_place(row, name, capturable):
    model, other = build(), build()
    lr = 0.03 if capturable else double(0.03)
    ours = row(row.groups(model), lr, capturable=capturable)
    theirs = row(row.groups(other), 0.03)
    held = [group["lr"] for group in ours.param_groups]
    pairs = [(model, ours, SCHEDULERS[name](ours)), (other, theirs, SCHEDULERS[name](theirs))]
    for step in range(5):
        for m, optimizer, scheduler in pairs:
            train(m, optimizer, 1, start=step)
            scheduler.step()
    assert all(group["lr"] is x for group, x in zip(ours.param_groups, held, strict=True))
    assert float(held[0]) == pytest.approx(theirs.param_groups[0]["lr"], rel=1e-12)
    for a, b in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.allclose(a, b, rtol=1e-10, atol=1e-12)


@every
def test_a_checkpoint_holds_numbers_and_loads_into_the_tensor(row):
    model = build()
    optimizer = row(row.groups(model), double(0.03), **tensors_of(row))
    torch.optim.lr_scheduler.LambdaLR(optimizer, lambda k: 0.5**k)
    train(model, optimizer, 3)
    buffer = io.BytesIO()
    torch.save(optimizer.state_dict(), buffer)
    saved = torch.load(io.BytesIO(buffer.getvalue()), weights_only=True)
    for group in saved["param_groups"]:
        assert type(group["lr"]) is float
        assert all(isinstance(v, str | float | int | list) for v in group.values())
    finals = []
    for capturable, lr in ((False, double(0.5)), (True, 0.5), (False, 0.5)):
        resumed = build(seed=5)
        resumed.load_state_dict(model.state_dict())
        again = row(row.groups(resumed), lr, capturable=capturable)
        held = [group["lr"] for group in again.param_groups]
        again.load_state_dict(torch.load(io.BytesIO(buffer.getvalue()), weights_only=True))
        assert float(again.param_groups[0]["lr"]) == 0.03
        if isinstance(held[0], torch.Tensor):
            assert all(group["lr"] is x for group, x in zip(again.param_groups, held, strict=True))
        train(resumed, again, 3, start=3)
        finals.append(bits(resumed))
    train(model, optimizer, 3, start=3)
    assert all(same(bits(model), final) for final in finals)


@every
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -0.1])
def test_a_tensor_out_of_range_makes_a_step_that_does_nothing(row, bad):
    model, clean = build(), build()
    lr = double(0.03)
    optimizer = row(row.groups(model), lr, **tensors_of(row))
    other = row(row.groups(clean), 0.03)
    train(model, optimizer, 2)
    train(clean, other, 2)
    before = bits(model)
    values = [lr] + ([optimizer.param_groups[0]["rho"]] if "rho" in row.options else [])
    for value in values:
        good = value.clone()
        value.fill_(bad)
        train(model, optimizer, 1, start=7)
        assert same(before, bits(model))
        value.copy_(good)
    assert int(optimizer.metrics()["skipped"]) == len(values)
    train(model, optimizer, 2, start=2)
    train(clean, other, 2, start=2)
    assert same(bits(model), bits(clean))


def test_a_share_above_one_makes_a_constrained_step_that_does_nothing():
    p = nn.Parameter(torch.full((2,), 0.1))
    for optimizer, value in (
        (ClippedScion([p], torch.tensor(0.5), rho=1.0, constrained=True), 1.5),
        (S3CG([p], gamma=torch.tensor(0.5), rho=1.5, beta=1.0, norm=Euclidean()), 0.9),
    ):
        p.grad = torch.ones(2)
        optimizer.step()
        before = p.detach().clone()
        optimizer.param_groups[0]["lr"].fill_(value)
        optimizer.step()
        assert torch.equal(p, before)
        assert int(optimizer.metrics()["skipped"]) == 1


@every
def test_bad_tensors_are_refused_with_what_to_do(row):
    def make(**options):
        return row([nn.Parameter(torch.ones(2, 2))], **options)

    name = row.step_name
    with pytest.raises(ValueError, match=rf"{name}=nan must lie in"):
        make(lr=torch.tensor(float("nan")))
    with pytest.raises(ValueError, match=rf"{name} is a tensor of the shape \(2,\): use a 0-d"):
        make(lr=torch.tensor([0.1, 0.1]))
    with pytest.raises(TypeError, match=rf"{name} is a tensor of dtype torch\.int64"):
        make(lr=torch.tensor(1))
    if "rho" in row.options:
        with pytest.raises(ValueError, match=r"rho=-1\.0 must lie in \(0, inf\)"):
            make(rho=torch.tensor(-1.0))
    with pytest.raises(TypeError, match=r"alpha=.* must be a plain number, not Tensor"):
        make(alpha=torch.tensor(0.1))


def test_one_threshold_is_one_tensor():
    a, b = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    two = [{"params": [a], "rho": torch.tensor(1.0)}, {"params": [b], "rho": torch.tensor(1.0)}]
    with pytest.raises(ValueError, match=r"rho is one number .* the same tensor in every group"):
        ClippedScion(two, 0.1, rho=1.0)
    shared = torch.tensor(1.0)
    ClippedScion([{**group, "rho": shared} for group in two], 0.1, rho=1.0)
    optimizer = ClippedScion([a], 0.1, rho=shared)
    optimizer.add_param_group({"params": [b], "norm": Euclidean()})
    assert optimizer.param_groups[1]["rho"] is shared


def test_matrix_steps_follow_a_float32_rate():
    """As a user writes it: `lr=torch.tensor(0.1)`."""
    model = nn.Linear(4, 3)
    optimizer = ClippedScion(
        [{"params": [model.weight], "norm": Spectral()}], torch.tensor(0.1), rho=1e-6
    )
    before = model.weight.detach().clone()
    model(torch.randn(5, 4)).square().sum().backward()
    optimizer.step()
    assert float(Spectral().norm(model.weight.detach() - before)) == pytest.approx(0.1, rel=1e-3)
