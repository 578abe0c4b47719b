"""Wrappers of others around our optimizers: they train, and resume as around torch's."""

import copy
import math

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from normball import ClippedScion, Scion, param_groups

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
pytorch_optimizer = pytest.importorskip("pytorch_optimizer")
schedulefree = pytest.importorskip("schedulefree")

OURS = {
    "clipped": lambda model, lr=0.02: ClippedScion(param_groups(model), lr, rho=5.0),
    "measured": lambda model, lr=0.02: ClippedScion(param_groups(model), lr),
    "scion": lambda model, lr=0.02: Scion(param_groups(model), lr),
}


def adamw(model, lr=0.02):
    return torch.optim.AdamW(model.parameters(), lr, weight_decay=0.0)


def sgd(model, lr=0.02):
    return torch.optim.SGD(model.parameters(), lr)


def sam(cls):
    def wrap(model, base):  # SAM builds the optimizer itself
        if base is adamw:
            return cls(model.parameters(), torch.optim.AdamW, lr=0.02)
        return cls(param_groups(model), Scion, lr=0.02)

    return wrap


WRAPPERS = {
    "Lookahead": lambda model, base: pytorch_optimizer.Lookahead(base(model)),
    "OrthoGrad": lambda model, base: pytorch_optimizer.OrthoGrad(base(model)),
    "TRAC": lambda model, base: pytorch_optimizer.TRAC(base(model)),
    "schedule-free": lambda model, base: schedulefree.ScheduleFreeWrapper(base(model)),
    "schedule-free, reference": lambda model, base: schedulefree.ScheduleFreeWrapperReference(
        base(model)
    ),
    "SAM": sam(pytorch_optimizer.SAM),
}  # fmt: skip


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 3)
    )


def batch(step):
    generator = torch.Generator().manual_seed(step)
    x = torch.randn(32, 6, generator=generator)
    return x, x[:, :3].sin()


def train(model, optimizer, steps, start=0):
    losses = []
    if hasattr(optimizer, "train"):
        optimizer.train()
    for step in range(start, start + steps):
        x, y = batch(step)

        def closure(x=x, y=y):
            optimizer.zero_grad()
            loss = (model(x) - y).square().mean()
            loss.backward()
            return loss

        loss = closure()
        losses.append(float(loss.detach()))
        optimizer.step(closure) if "SAM" in type(optimizer).__name__ else optimizer.step()
    return losses


def resumes(wrap, base):
    """Tell whether a run that is saved and loaded ends as one without a break."""
    model = network()
    optimizer = wrap(model, base)
    train(model, optimizer, 6)
    saved = copy.deepcopy((model.state_dict(), optimizer.state_dict()))
    straight = train(model, optimizer, 6, 6)
    twin = network()
    other = wrap(twin, base)
    try:
        twin.load_state_dict(saved[0])
        other.load_state_dict(saved[1])
        return train(twin, other, 6, 6) == straight
    except (ValueError, RuntimeError, TypeError, AttributeError, LookupError):
        return False


@pytest.mark.parametrize("base", OURS)
@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_a_wrapper_trains(wrapper, base):
    if "SAM" in wrapper and base != "scion":
        pytest.skip("SAM keeps its rho in the groups: tested below")
    if (wrapper, base) == ("OrthoGrad", "scion"):
        pytest.skip("steps of fixed length do not settle where the gradient is only noise")
    if (wrapper, base) == ("TRAC", "measured"):
        pytest.skip("TRAC shortens the steps along which the threshold is measured")
    model = network()
    losses = train(model, WRAPPERS[wrapper](model, OURS[base]), 150)
    assert all(map(math.isfinite, losses))
    assert sum(losses[-10:]) < 0.7 * sum(losses[:10])


# It does not resume around torch's SGD either; its reference form does.
@pytest.mark.parametrize("wrapper", [name for name in WRAPPERS if name != "schedule-free"])
def test_a_wrapper_resumes_as_around_torchs_optimizers(wrapper):
    base = "scion" if "SAM" in wrapper else "clipped"
    # The schedule-free wrapper puts its state where AdamW expects none.
    control = sgd if "schedule" in wrapper else adamw
    assert resumes(WRAPPERS[wrapper], control)
    assert resumes(WRAPPERS[wrapper], OURS[base])


def test_sam_around_a_threshold_is_refused():
    model = network()
    with pytest.raises(TypeError, match=r"SAM.*build SAM around Scion"):
        pytorch_optimizer.SAM(param_groups(model), ClippedScion, lr=0.02)
    with pytest.raises(TypeError, match=r"SAM"):  # it has an alpha of its own in the groups
        pytorch_optimizer.WSAM(model, param_groups(model), Scion, lr=0.02)


def test_centralised_gradients():
    """The mean of a row is taken out of the gradient before the step."""
    model = network()
    optimizer = ClippedScion(param_groups(model), 0.02, rho=5.0)

    def centralise(optimizer, *_):
        for group in optimizer.param_groups:
            for p in group["params"]:
                if p.ndim > 1:
                    p.grad -= p.grad.mean(1, keepdim=True)

    optimizer.register_step_pre_hook(centralise)
    losses = train(model, optimizer, 100)
    assert losses[-1] < 0.7 * losses[0]
    momentum = optimizer.state[model[0].weight]["momentum"]
    assert float(momentum.mean(1).abs().max()) < 1e-6


def test_torchs_average_of_a_model_follows():
    model = network()
    optimizer = ClippedScion(param_groups(model), 0.02, rho=5.0)
    average = AveragedModel(model)
    sums = [torch.zeros_like(p) for p in model.parameters()]
    for step in range(10):
        train(model, optimizer, 1, step)
        average.update_parameters(model)
        sums = [s + p.detach() for s, p in zip(sums, model.parameters(), strict=True)]
    for p, total in zip(average.module.parameters(), sums, strict=True):
        assert torch.allclose(p, total / 10, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("cycle", [True, False])
def test_accelerates_optimizer_and_scheduler(cycle):
    accelerate = pytest.importorskip("accelerate")
    model, other = network(), network()
    accelerator = accelerate.Accelerator(cpu=True)

    def build(model):
        optimizer = ClippedScion(param_groups(model), 0.02, rho=5.0)
        return optimizer, torch.optim.lr_scheduler.OneCycleLR(
            optimizer, 0.04, total_steps=20, cycle_momentum=cycle
        )

    plain, schedule = build(other)
    wrapped, ours, theirs = accelerator.prepare(model, *build(model))
    for step in range(12):
        x, y = batch(step)
        ours.zero_grad()
        accelerator.backward((wrapped(x) - y).square().mean())
        ours.step()
        theirs.step()
        train(other, plain, 1, step)
        schedule.step()
        assert ours.param_groups[0]["lr"] == plain.param_groups[0]["lr"]
        assert ours.param_groups[0]["alpha"] == plain.param_groups[0]["alpha"]
    for p, q in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(p, q)
