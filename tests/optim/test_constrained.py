"""The constrained methods: the ball holds, the start is brought in, lr has an end."""

import warnings
from unittest import mock

import pytest
import torch
from torch import nn

from normball import ClippedScion, Scion
from normball.balls import project_
from normball.norms import RMS, Sign
from tests.optim.network import build, groups, train
from tests.optim.reference import ratios

METHODS = {
    "scion": lambda p, lr: Scion(p, lr, alpha=0.5, constrained=True),
    "variant 1": lambda p, lr: ClippedScion(p, lr, rho=0.3, alpha=0.5, constrained=True, variant=1),
    "variant 2": lambda p, lr: ClippedScion(p, lr, rho=0.3, alpha=0.5, constrained=True),
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("lr", [0.05, 0.5, 1.0])
@pytest.mark.parametrize(("dtype", "tol"), [(torch.float64, 1e-9), (torch.float32, 1e-3)])
@pytest.mark.filterwarnings("ignore:.*starts outside its ball")
def test_iterates_stay_in_the_ball(method, lr, dtype, tol):
    model = build(dtype)
    optimizer = METHODS[method](groups(model), lr)
    for i in range(30):
        train(model, optimizer, 1, start=i)
        assert max(ratios(model).values()) <= 1 + tol


def test_a_start_outside_is_scaled_onto_the_ball_with_a_warning():
    model = build()
    with torch.no_grad():
        model.head.weight.mul_(100)
        inside = model.head.bias.clone()
    optimizer = Scion(
        [
            {"params": [("head.weight", model.head.weight)], "norm": Sign(), "radius": 2.0},
            {"params": [("head.bias", model.head.bias)], "norm": RMS(), "radius": 2.0},
        ],
        0.0,
        constrained=True,
    )
    for p in (model.head.weight, model.head.bias):
        p.grad = torch.ones_like(p)
    start = model.head.weight.detach().clone()
    optimizer.step()
    assert torch.equal(model.head.weight, start), "a step of length 0 moves nothing"
    for group in optimizer.param_groups:
        group["lr"] = 1e-30
    with pytest.warns(UserWarning, match=r"head\.weight of shape \(5, 12\) starts outside") as seen:
        optimizer.step()
    assert len(seen) == 1
    assert seen[0].filename == __file__
    scale = 2.0 / (12 * start.abs().max())
    assert torch.allclose(model.head.weight, start * scale)
    assert torch.equal(model.head.bias, inside)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        optimizer.step()


def test_a_bad_first_gradient_moves_no_start():
    p = nn.Parameter(torch.tensor([5.0, 5.0]))
    optimizer = ClippedScion([p], 0.1, rho=1.0, constrained=True)
    p.grad = torch.tensor([float("nan"), 0.0])
    optimizer.step()
    assert p.tolist() == [5.0, 5.0]
    p.grad = torch.tensor([1.0, 0.0])
    with pytest.warns(UserWarning, match="starts outside"):
        optimizer.step()
    assert float(RMS().norm(p.detach())) <= 1 + 1e-6


@pytest.mark.parametrize("variant", [1, 2])
def test_never_backwards(variant):
    """On a line with d = -1 for ever, x goes from 2 to the ball and towards its far end."""
    p = nn.Parameter(torch.tensor([2.0], dtype=torch.float64))
    optimizer = ClippedScion([p], 0.1, rho=0.5, alpha=1.0, constrained=True, variant=variant)
    seen = []

    def step(gradient):
        p.grad = torch.full_like(p, gradient)
        optimizer.step()
        seen.append(p.item())

    with pytest.warns(UserWarning, match="starts outside"):
        step(-1.0)
    step(-1.0)
    step(-1.0)
    assert seen == [1.0, 1.0, 1.0]  # the corner already: gap 0
    for _ in range(100):
        step(1.0)
        assert seen[-1] < seen[-2]
    assert -1 <= seen[-1] < 0


def test_a_negative_gap_steps_nowhere():
    """After a parameter is pushed outside behind the optimizer's back."""
    p = nn.Parameter(torch.tensor([0.5], dtype=torch.float64))
    optimizer = ClippedScion([p], 0.1, rho=1.0, alpha=1.0, constrained=True)
    p.grad = -torch.ones(1, dtype=torch.float64)
    optimizer.step()
    with torch.no_grad():
        p.fill_(2.0)
    optimizer.step()
    assert p.item() == 2.0
    assert float(optimizer.metrics()["gap"]) == pytest.approx(-1)
    assert float(optimizer.metrics()["step_factor"]) == 0


@pytest.mark.parametrize("variant", [1, 2])
def test_a_smaller_radius_brings_the_weights_in(variant):
    """Also after a larger one; outside, with a gradient outwards, they would stay for ever."""
    p = nn.Parameter(torch.tensor([0.9], dtype=torch.float64))
    optimizer = ClippedScion([p], 0.5, rho=1.0, alpha=1.0, constrained=True, variant=variant)
    p.grad = -torch.ones_like(p)
    for radius in (1.0, 2.0, 1.0, 0.25):
        optimizer.param_groups[0]["radius"] = radius
        before = p.item()
        if before > radius:
            with pytest.warns(UserWarning, match=f"starts outside its ball: .* radius {radius:g}"):
                optimizer.step()
        else:
            optimizer.step()
            assert p.item() > before
        assert abs(p.item()) <= radius * (1 + 1e-12)


def test_a_larger_radius_reads_no_norm():
    """What is in a ball is in a larger one, and perhaps no longer in the first."""
    p = nn.Parameter(torch.zeros(1))
    optimizer = Scion([{"params": [p], "norm": RMS()}], lr=0.9, constrained=True)
    for step, radius in enumerate((1.0, 1.5, 2.0, 3.0)):
        optimizer.param_groups[0]["radius"] = radius
        p.grad = torch.ones(1)
        geometry = optimizer._geometry
        with mock.patch.object(geometry, "ratios", wraps=geometry.ratios) as read:
            optimizer.step()
        assert read.call_count == (step == 0)
    assert p.item() < -2
    optimizer.param_groups[0]["radius"] = 1.0
    with pytest.warns(UserWarning, match="starts outside its ball"):
        optimizer.step()
    assert abs(p.item()) <= 1


@pytest.mark.parametrize("alpha", [1.0, 0.5])
def test_weights_moved_out_later_are_not_scaled_with_or_without_a_resume(alpha):
    def run(resume):
        p = nn.Parameter(torch.tensor([0.9, 0.1], dtype=torch.float64))
        optimizer = ClippedScion([p], 0.1, rho=1.0, alpha=alpha, constrained=True)
        for step in range(6):
            if step == 3:
                with torch.no_grad():
                    p.mul_(20)
                if resume:
                    state = optimizer.state_dict()
                    optimizer = ClippedScion([p], 0.1, rho=1.0, alpha=alpha, constrained=True)
                    optimizer.load_state_dict(state)
            p.grad = 0.1 * p.detach() + 0.01 * step
            optimizer.step()
        return p.detach()

    straight = run(False)
    assert torch.equal(run(True), straight)
    assert float(straight.norm()) > 2  # the ball has radius 1 in root mean square


def test_a_smaller_radius_scales_after_a_resume_too():
    p = nn.Parameter(torch.tensor([0.9, 0.9], dtype=torch.float64))
    optimizer = ClippedScion([p], 0.1, rho=1.0, constrained=True)
    p.grad = torch.full_like(p, -1e-9)
    optimizer.step()
    optimizer.param_groups[0]["radius"] = 0.5
    state = optimizer.state_dict()
    optimizer = ClippedScion([p], 0.1, rho=1.0, constrained=True)
    optimizer.load_state_dict(state)
    with pytest.warns(UserWarning, match=r"starts outside .* radius 0\.5"):
        optimizer.step()
    assert float(p.detach().abs().max()) <= 0.5


def test_a_layer_outside_that_no_step_moves_is_named():
    """At x = 2 with d = -1 for ever, the gap is -1: no step goes there, and none comes back."""
    p = nn.Parameter(torch.tensor([0.5], dtype=torch.float64))
    optimizer = ClippedScion([p], 0.1, rho=1.0, alpha=1.0, constrained=True)
    p.grad = -torch.ones_like(p)
    optimizer.step()
    with torch.no_grad():
        p.fill_(2.0)
    with pytest.warns(UserWarning, match=r"gap of the last 10 steps was negative.*project_"):
        any(optimizer.step() for _ in range(25))
    assert p.item() == 2.0
    project_(optimizer)
    optimizer.step()
    assert p.item() == 1.0


@pytest.mark.parametrize("make", [Scion, lambda p, lr, **k: ClippedScion(p, lr, rho=1.0, **k)])
def test_lr_is_a_share(make):
    p = nn.Parameter(torch.ones(2))
    with pytest.raises(ValueError, match=r"lr=1\.5 must lie in \[0, 1\]: .* share of the way"):
        make([p], 1.5, constrained=True)
    assert make([p], 1.5).param_groups[0]["lr"] == 1.5
    optimizer = make([p], 1.0, constrained=True)
    optimizer.param_groups[0]["lr"] = 1.01
    p.grad = torch.ones(2)
    with pytest.raises(ValueError, match=r"lr=1\.01"):
        optimizer.step()
    assert p.tolist() == [1, 1]


def test_rho_is_one_number():
    a, b = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    with pytest.raises(ValueError, match=r"hold \[1\.0, 2\.0\]: set the same value"):
        ClippedScion([{"params": [a], "rho": 1.0}, {"params": [b], "rho": 2.0}], 0.1, rho=1.0)
    optimizer = ClippedScion([{"params": [a], "rho": 3.0}], 0.1, rho=1.0)
    optimizer.add_param_group({"params": [b]})
    assert [g["rho"] for g in optimizer.param_groups] == [3.0, 3.0]
    optimizer.param_groups[1]["rho"] = 4.0
    a.grad = torch.ones(2)
    with pytest.raises(ValueError, match=r"\[3\.0, 4\.0\]"):
        optimizer.step()
    assert a.tolist() == [1, 1]
    with pytest.raises(TypeError, match="unknown key 'rho'"):
        Scion([{"params": [a], "rho": 3.0}], 0.1)


@pytest.mark.parametrize("rho", [0.0, -1.0, float("nan"), float("inf")])
def test_rho_is_positive(rho):
    with pytest.raises(ValueError, match=r"rho=.* must lie in \(0, inf\)"):
        ClippedScion([nn.Parameter(torch.ones(2))], 0.1, rho=rho)


def test_variant_is_one_or_two():
    with pytest.raises(ValueError, match="variant=3 must be 1 or 2"):
        ClippedScion([nn.Parameter(torch.ones(2))], 0.1, rho=1.0, variant=3)
