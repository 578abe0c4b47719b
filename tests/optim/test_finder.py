"""The range test: it finds where steps are right, and leaves no trace."""

import copy

import numpy as np
import pytest
import torch

from normball import GGNC, ClippedScion, Scion, find_lr
from normball.norms import Euclidean
from tests.optim.network import build, groups, loss, train

slack = pytest.mark.filterwarnings("ignore:.*(starts|is) outside")


@pytest.mark.parametrize("scale", [1e-2, 1.0, 1e3])
def test_it_finds_the_scale_of_a_problem(scale):
    """A parabola at a distance of `scale`: a few steps of about a tenth of it get there."""
    x = torch.nn.Parameter(torch.full((3,), scale, dtype=torch.float64))
    optimizer = Scion([{"params": [x], "norm": Euclidean()}], 1.0, alpha=0.999)

    def closure():
        optimizer.zero_grad()
        value = (x / scale).square().sum()
        value.backward()
        return value

    curve = find_lr(optimizer, closure, low=1e-5 * scale, high=10 * scale)
    distance = scale * 3**0.5
    assert distance / 50 < curve.suggestion < distance / 2
    # Divergence ends it: the last steps jump over the minimum and away.
    assert curve.lrs[-1] < 10 * scale
    assert curve.losses[0] == pytest.approx(3)
    assert len(curve.lrs) == len(curve.losses)


@pytest.mark.parametrize("number", [False, True])
def test_the_loss_may_be_a_number_and_may_be_to_be_raised(number):
    """-f is raised where f is lowered: the same curve, upside down."""
    curves = []
    for sign in (1, -1):
        x = torch.nn.Parameter(torch.full((3,), 1.0, dtype=torch.float64))
        optimizer = Scion([{"params": [x], "norm": Euclidean()}], 1.0, maximize=sign < 0)

        def closure(x=x, optimizer=optimizer, sign=sign):
            optimizer.zero_grad()
            value = sign * x.square().sum()
            value.backward()
            return value.item() if number else value

        curves.append(find_lr(optimizer, closure))
    down, up = curves
    assert up.suggestion == down.suggestion
    assert up.losses == tuple(-x for x in down.losses)


@pytest.mark.parametrize("wrong", [None, torch.ones(2)])
def test_a_closure_without_a_loss_is_refused(wrong):
    x = torch.nn.Parameter(torch.ones(2))
    optimizer = Scion([x], 1.0)
    with pytest.raises(
        TypeError, match=r"closure returned (None|.*\(2,\)): it must return the loss"
    ):
        find_lr(optimizer, lambda: wrong)
    assert x.tolist() == [1, 1]


KINDS = [
    (Scion, {}),
    (ClippedScion, {"rho": 1.5}),
    (ClippedScion, {"rho": "auto"}),
    (ClippedScion, {"rho": 1.5, "capturable": True}),
    (ClippedScion, {"rho": 1.5, "constrained": True, "variant": 1}),
]


@slack
@pytest.mark.parametrize(("make", "options"), KINDS)
@pytest.mark.parametrize("before", [0, 7])
def test_it_leaves_no_trace(make, options, before):
    model, other = build(), build()
    optimizer, plain = make(groups(model), 0.02, **options), make(groups(other), 0.02, **options)
    train(model, optimizer, before)
    train(other, plain, before)
    saved = copy.deepcopy(optimizer.state_dict())
    seen = [g["lr"] for g in optimizer.param_groups]
    draws = iter(range(1000))

    def closure():
        optimizer.zero_grad()
        value = loss(model, next(draws))
        value.backward()
        return value

    find_lr(optimizer, closure, steps=30)
    assert str(optimizer.state_dict()) == str(saved)
    assert all(g["lr"] is lr for g, lr in zip(optimizer.param_groups, seen, strict=True))
    train(model, optimizer, 5, start=before)
    train(other, plain, 5, start=before)
    assert all(
        torch.equal(p, q) for p, q in zip(model.parameters(), other.parameters(), strict=True)
    )


def test_groups_keep_their_ratios_and_thresholds_are_out_of_the_way():
    a, b = (torch.nn.Parameter(torch.full((1,), 50.0, dtype=torch.float64)) for _ in range(2))
    made = [{"params": [a], "lr": 0.4}, {"params": [b], "lr": 0.1}]
    optimizer = ClippedScion([{"norm": Euclidean(), **g} for g in made], 0.4, rho=1e9, alpha=0.5)
    places = []

    def closure():
        places.append((a.item(), b.item()))
        optimizer.zero_grad()
        value = a.square().sum() + b.square().sum()
        value.backward()
        return value

    curve = find_lr(optimizer, closure, steps=40)
    for (x, y), (u, v), lr in zip(places, places[1:], curve.lrs, strict=False):
        assert x - u == pytest.approx(lr)
        assert y - v == pytest.approx(lr / 4)
    assert (a.item(), b.item()) == (50, 50)


def test_noise_at_the_start_does_not_end_it():
    """A loss that scatters by a third of itself from batch to batch, as small batches do."""
    x = torch.nn.Parameter(torch.full((3,), 1.0, dtype=torch.float64))
    optimizer = Scion([{"params": [x], "norm": Euclidean()}], 1.0, alpha=0.5)
    generator = torch.Generator().manual_seed(0)

    def closure():
        optimizer.zero_grad()
        value = x.square().sum() + torch.rand((), generator=generator, dtype=torch.float64)
        value.backward()
        return value

    curve = find_lr(optimizer, closure, low=1e-5, high=10)
    assert 0.02 < curve.suggestion < 1
    assert len(curve.lrs) > 70


def test_it_gives_back_what_it_took_when_the_loss_breaks():
    model = build()
    optimizer = ClippedScion(groups(model), 0.02, rho="auto")
    before = [p.detach().clone() for p in model.parameters()]

    def closure():
        raise RuntimeError("the data ends")

    with pytest.raises(RuntimeError, match="the data ends"):
        find_lr(optimizer, closure)
    with pytest.raises(ValueError, match="the loss never fell"):
        find_lr(optimizer, lambda: torch.tensor(float("nan")))
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), before, strict=True))
    assert optimizer.param_groups[0]["lr"] == 0.02
    assert optimizer.param_groups[0]["rho"] is optimizer.param_groups[1]["rho"]
    train(model, optimizer, 1)


@pytest.mark.parametrize("low", [1e-5, 3e-4, 7e-3, 0.0123])
def test_a_constrained_test_goes_up_to_the_whole_way(low):
    p = torch.nn.Parameter(torch.zeros(3, dtype=torch.float64))
    optimizer = Scion([{"params": [p], "norm": Euclidean()}], 0.1, constrained=True)

    def closure():
        optimizer.zero_grad()
        value = p.sum()
        value.backward()
        return value

    curve = find_lr(optimizer, closure, low=low, steps=23)
    assert len(curve.lrs) == 23
    assert curve.lrs[-1] == pytest.approx(1)
    assert max(curve.lrs) <= 1


def test_refusals():
    p = torch.nn.Parameter(torch.ones(2))
    optimizer = Scion([p], 0.1)
    with pytest.raises(TypeError, match="ClippedScion or Scion, not GGNC"):
        find_lr(GGNC([p], gamma=0.1, rho=1.0, norm=Euclidean()), lambda: p.sum())
    for options, message in (
        ({"low": 0.0}, r"low=0\.0 must lie in \(0, inf\)"),
        ({"low": 0.1, "high": 0.1}, r"high=0\.1 must lie in \(0\.1, inf\)"),
        ({"steps": 5}, "steps=5 must be a whole number of at least 10"),
    ):
        with pytest.raises(ValueError, match=message):
            find_lr(optimizer, lambda: p.sum(), **options)
    with pytest.raises(ValueError, match=r"high=2\.0 must lie in"):
        find_lr(Scion([p], 0.1, constrained=True), lambda: p.sum(), high=2.0)


@pytest.mark.parametrize("sign", [1, -1])
def test_a_curve_is_shown_in_one_line_and_as_a_picture(sign):
    matplotlib = pytest.importorskip("matplotlib")
    x = torch.nn.Parameter(torch.full((3,), 1.0, dtype=torch.float64))
    optimizer = Scion([{"params": [x], "norm": Euclidean()}], 1.0, maximize=sign < 0)

    def closure():
        optimizer.zero_grad()
        value = sign * x.square().sum()
        value.backward()
        return value

    curve = find_lr(optimizer, closure, low=1e-3, high=1.0, steps=40)
    values = np.array(curve.losses)
    place = int((values * sign).argmin())
    assert 0 < place < len(values) - 1
    assert curve.best == (curve.lrs[place], curve.losses[place])
    assert repr(curve) == (
        f"LrCurve(suggestion={curve.suggestion:.3g}, {'lowest' if sign > 0 else 'highest'} loss "
        f"{values[place]:.4g} at {curve.lrs[place]:.3g}, {len(values)} step sizes from 0.001 to "
        f"{curve.lrs[-1]:.3g})"
    )
    assert str(curve) == repr(curve)
    axes = curve.plot()
    line, suggestion, best = axes.lines
    assert np.array_equal(line.get_xydata(), np.stack([curve.lrs, curve.losses], 1))
    assert list(suggestion.get_xdata()) == [curve.suggestion] * 2
    assert best.get_xydata().tolist() == [list(curve.best)]
    other = matplotlib.figure.Figure().subplots()
    assert curve.plot(other) is other
    assert len(other.lines) == 3
