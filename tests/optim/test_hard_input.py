"""What goes wrong in training, with nothing set: weights stay finite, and training goes on."""

import copy
import math

import pytest
import torch
from torch import nn

from normball import ClippedScion, Scion, param_groups

MODES = {"free": {}, "ball": {"constrained": True}}
pytestmark = pytest.mark.filterwarnings("ignore:.*(starts|is) outside")


class Run:
    """A small network on 60 fixed examples, in batches of 20, with the default optimizer."""

    def __init__(self, mode="free", dtype=torch.float32, made=ClippedScion, **options):
        torch.manual_seed(0)
        self.model = nn.Sequential(
            nn.Linear(6, 16), nn.LayerNorm(16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(),
            nn.Linear(16, 3),
        ).to(dtype)  # fmt: skip
        self.x = torch.randn(60, 6, dtype=dtype)
        self.y = (self.x @ torch.randn(6, 3, dtype=dtype)).argmax(1)
        self.optimizer = made(param_groups(self.model), **MODES[mode] | options)

    def step(self, k, scale=1.0, change=None, rows=None):
        rows = torch.arange(20 * k, 20 * k + 20) % 60 if rows is None else rows
        self.optimizer.zero_grad()
        loss = nn.functional.cross_entropy(self.model(self.x[rows]), self.y[rows])
        (scale * loss).backward()
        if change is not None:
            change(self.model)
        self.optimizer.step()
        return float(loss.detach())

    def train(self, steps, **options):
        return [self.step(k, **options) for k in range(steps)]

    def weights(self):
        return [p.detach().clone() for p in self.model.parameters()]

    def sound(self):
        return all(bool(p.isfinite().all()) for p in self.model.parameters())


@pytest.mark.parametrize("made", [ClippedScion, Scion])
def test_without_any_gradient_nothing_moves(made):
    """A thousand steps of a loss that is constant, at the start and after some training."""
    run = Run(made=made, **({} if made is ClippedScion else {"lr": 2**-8}))
    for trained in (0, 30):
        run.train(trained)
        before, state = run.weights(), copy.deepcopy(run.optimizer.state_dict())
        for _ in range(1000 if trained else 20):
            run.step(0, scale=0.0)
        assert all(torch.equal(a, b) for a, b in zip(before, run.weights(), strict=True))
        after = run.optimizer.state_dict()
        for k, values in state["state"].items():
            for name, value in values.items():
                now = after["state"][k][name]
                assert torch.equal(torch.as_tensor(value), torch.as_tensor(now))
        for old, new in zip(state["param_groups"], after["param_groups"], strict=True):
            # The first figure counts calls.
            assert old.get("curvature", [0])[1:] == new.get("curvature", [0])[1:]
        assert float(run.optimizer.metrics()["skipped"]) == 0
    losses = run.train(120)
    assert losses[-1] < 0.5 * losses[0]


@pytest.mark.parametrize(("mode", "lr"), [("free", 2**-6), ("ball", 2**-8)])
def test_the_default_step(mode, lr):
    run = Run(mode)
    assert [group["lr"] for group in run.optimizer.param_groups] == [lr] * len(
        run.optimizer.param_groups
    )


def test_the_formulas_go_on_without_a_gradient():
    run = Run(lazy=False)
    run.train(30)
    before = run.weights()
    run.step(0, scale=0.0)
    assert not any(torch.equal(a, b) for a, b in zip(before, run.weights(), strict=True))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("scale", [2.0**-20, 2.0**20])
def test_the_scale_of_the_loss_does_not_matter(mode, scale):
    """By a power of two, so that all products round alike."""
    plain, scaled = Run(mode, torch.float64), Run(mode, torch.float64)
    plain.train(60)
    scaled.train(60, scale=scale)
    for a, b in zip(plain.weights(), scaled.weights(), strict=True):
        assert torch.allclose(a, b, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("mode", MODES)
def test_one_batch_repeated(mode):
    run = Run(mode)
    losses = run.train(300, rows=torch.arange(20))
    assert run.sound()
    assert losses[-1] < 0.1 * losses[0]


@pytest.mark.parametrize("mode", MODES)
def test_labels_that_are_noise(mode):
    """New labels for every batch: there is nothing to learn, and the loss stays near its floor."""
    run = Run(mode)
    random = torch.Generator().manual_seed(1)
    losses = []
    for k in range(300):
        run.y = torch.randint(3, (60,), generator=random)
        losses.append(run.step(k))
    assert run.sound()
    run.optimizer.eval()
    assert sum(losses[-50:]) / 50 < 2.5 * math.log(3)


@pytest.mark.parametrize("mode", MODES)
def test_a_layer_with_a_huge_gradient(mode):
    """The minimisers know nothing of each other's sizes: all layers train."""

    def enlarge(model):
        model[3].weight.grad.mul_(1e8)

    run = Run(mode)
    before = run.weights()
    losses = run.train(150, change=enlarge)
    assert run.sound()
    assert losses[-1] < 0.5 * losses[0]
    assert not any(torch.equal(a, b) for a, b in zip(before, run.weights(), strict=True))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("rho", [1.0, "auto"])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_gradients_that_are_not_finite_in_between(mode, rho, bad):
    """Every seventh step; with a number the others are those of a run without them."""

    def spoil(model):
        model[0].weight.grad[1, 2] = bad

    run, other, losses = Run(mode, torch.float64, rho=rho), Run(mode, torch.float64, rho=rho), []
    for k in range(70):
        losses.append(run.step(k))
        other.step(k)
        if k % 7 == 3:
            run.step(k, change=spoil)
    assert float(run.optimizer.metrics()["skipped"]) == 10
    assert run.sound()
    assert losses[-1] < 0.9 * losses[0]
    if rho != "auto":  # which measures every fifth call
        assert all(torch.equal(a, b) for a, b in zip(run.weights(), other.weights(), strict=True))


@pytest.mark.parametrize("mode", MODES)
def test_steps_do_not_stall(mode):
    """However noisy: no step is shorter than the shortest one, which falls as the root of k."""
    run = Run(mode)
    lr = 2**-8 if mode == "ball" else 2**-6
    random = torch.Generator().manual_seed(2)

    def noise(model):
        for p in model.parameters():
            p.grad = torch.randn(p.shape, generator=random) * 10 ** float(
                torch.empty(()).uniform_(-6, 6, generator=random)
            )

    for k in range(400):
        run.step(k, change=noise)
        seen = run.optimizer.metrics()
        length = lr * float(seen["step_factor"])
        assert length >= float(seen["shortest_step"]) * (1 - 1e-9)
    assert run.sound()
    assert length >= lr / 4 * math.sqrt(50 / 400) * (1 - 1e-9)
