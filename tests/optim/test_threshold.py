"""The threshold that is measured, against its formulas with every direction kept."""

import copy
import math

import numpy as np
import pytest
import torch

from normball import ClippedScion
from normball.norms import Euclidean, Sign
from normball.theory.bounds import measured_lengths
from tests.optim import reference
from tests.optim.network import build, groups, loss, train
from tests.optim.reference import LAYERS

KINDS = {
    "free": {},
    "variant 1": {"constrained": True, "variant": 1},
    "variant 2": {"constrained": True},
}
slack = pytest.mark.filterwarnings("ignore:.*(starts|is) outside")


class Rule:
    """The rule in plain numbers; it keeps the last direction, which the optimizer does not."""

    def __init__(self, lr, alpha, constrained):
        self.lr, self.alpha, self.constrained = lr, alpha, constrained
        self.steps = self.looks = 0
        self.gamma = None
        self.turned = self.moved = self.sloped = 0.0

    def look(self, d, g):
        if self.steps > 20 and self.steps % 5:
            return
        before = sum(np.sum(d[n] * self.u[n]) for n in d) / (1 - (1 - self.alpha) ** self.steps)
        turn = before - sum(np.sum(g[n] * self.u[n]) for n in g)
        weight = min(0.9, 1 - 1 / (self.looks + 1))
        self.turned = weight * self.turned + (1 - weight) * turn
        self.moved = weight * self.moved + (1 - weight) * self.length
        self.sloped = weight * self.sloped + (1 - weight) * before
        latest = max(self.turned, 1e-3 * before) / self.moved
        if self.looks < 20:
            self.level = latest
        elif latest / 2 < self.level:
            pace = max(2 / (self.looks - 19), 0.2)
            fall = 0.9 * pace if self.looks < 40 else 0.5 / self.looks
            self.level = max(latest / 2, self.level * np.exp(-fall))
        else:
            self.level *= np.exp(0.1 * 0.2)
        self.gamma = min(1 / self.level, 2 * self.gamma)
        self.looks += 1

    def rho(self, size):
        longest = min(1, (50 / (self.steps + 1)) ** 0.5)
        part = 0.25
        if self.looks >= 20 and not self.constrained:
            part = 0.25 * 2.8 ** np.clip((self.turned / self.sloped - 1.9) / 0.2, 0, 1)
        shortest = longest * part * min(1, (self.steps + 1) / 5)
        wanted = np.inf if self.gamma is None else self.lr / self.gamma
        return np.clip(wanted, size / longest, size / shortest)

    def took(self, factor, square, u, size):
        self.steps += 1
        self.length, self.u = factor * self.lr * square, u
        if self.gamma is None:
            self.gamma = self.length / size


def follow(model, lr, alpha, variant, steps):
    """Return weights and thresholds of the rule along the gradients of `model`, and the rule."""
    x = {n: p.detach().double().numpy().copy() for n, p in model.named_parameters()}
    d = {n: np.zeros_like(value) for n, value in x.items()}
    rule, seen = Rule(lr, alpha, variant is not None), []
    for step in range(steps):
        with torch.no_grad():
            for n, p in model.named_parameters():
                p.copy_(torch.from_numpy(x[n]))
        model.zero_grad()
        loss(model, step).backward()
        g = {n: p.grad.numpy().copy() for n, p in model.named_parameters()}
        if step:
            rule.look(d, g)
        new = {n: (1 - alpha) * d[n] + alpha * g[n] for n in d}
        v = {n: LAYERS[n][2] * LAYERS[n][0](new[n]) for n in d}
        u = v if variant is None else {n: x[n] + v[n] for n in v}
        size = sum(np.sum(new[n] * u[n]) for n in u)
        corner = max(LAYERS[n][1](u[n]) / LAYERS[n][2] for n in u) if variant == 1 else 1.0
        rho = rule.rho(size / corner**2)
        factor = reference.step(x, d, g, lr=lr, alpha=alpha, rho=rho, variant=variant)
        rule.took(factor, corner**2, u, size)
        seen.append(rho)
    return x, seen, rule


@slack
@pytest.mark.parametrize("kind", KINDS)
def test_it_follows_its_formulas(kind):
    lr, alpha, steps = 0.05, 0.3, 175
    options = KINDS[kind]
    variant = options.get("variant", 2) if options else None
    model, other = build(), build()
    plain = {"alpha": alpha, "nesterov": False}
    optimizer = ClippedScion(groups(model), lr, rho="auto", **plain, **options)
    if options:  # inside the ball, where the reference starts
        with torch.no_grad():
            for p, q in zip(model.parameters(), other.parameters(), strict=True):
                q.copy_(p.mul_(0.1))
    seen = []
    for step in range(steps):
        train(model, optimizer, 1, start=step)
        seen.append(float(optimizer.param_groups[0]["rho"]))
    weights, wanted, _ = follow(other, lr, alpha, variant, steps)
    assert len({round(rho, 6) for rho in wanted}) > 20, "the threshold must move"
    assert seen == pytest.approx(wanted, rel=1e-7)
    for name, p in model.named_parameters():
        assert p.detach().numpy() == pytest.approx(weights[name], abs=1e-8), name


@pytest.mark.parametrize("kind", ["free", "variant 2"])
@slack
def test_metrics_say_what_was_chosen_and_why(kind):
    """Against the reference: length, limits, and the averages of what it measured."""
    lr, alpha, steps = 0.05, 0.3, 60
    model = build()
    optimizer = ClippedScion(groups(model), lr, alpha=alpha, nesterov=False, **KINDS[kind])
    names = {"shortest_step", "longest_step", "curvature", "mean_curvature", "swing"}
    assert {k: float(v) for k, v in optimizer.metrics().items() if k in names} == dict.fromkeys(
        names, 0
    )
    if kind != "free":
        with torch.no_grad():
            for p in model.parameters():
                p.mul_(0.1)
    other = copy.deepcopy(model)
    for step in range(steps):
        train(model, optimizer, 1, start=step)
        seen = {k: float(v) for k, v in optimizer.metrics().items() if v.ndim == 0}
        shortest, longest = (lr * length for length in measured_lengths(step + 1))
        assert seen["longest_step"] == pytest.approx(longest)
        assert seen["shortest_step"] >= shortest * (1 - 1e-12)
        length = lr * seen["step_factor"]
        assert seen["shortest_step"] * (1 - 1e-9) <= length <= longest * (1 + 1e-9)
    rule = follow(other, lr, alpha, 2 if KINDS[kind] else None, steps)[2]
    assert seen["curvature"] == pytest.approx(rule.level, rel=1e-6)
    assert seen["mean_curvature"] == pytest.approx(rule.turned / rule.moved, rel=1e-6)
    wanted = rule.turned / rule.sloped if kind == "free" else 0
    assert seen["swing"] == pytest.approx(wanted, rel=1e-6)
    for group in optimizer.param_groups:
        group["rho"] = 1.0
    assert not names & optimizer.metrics().keys()


@pytest.mark.parametrize(
    ("after", "part"), [(0.5, 0.25), (0.9, 0.25), (1.0, 0.25 * 2.8**0.5), (1.1, 0.7), (1.5, 0.7)]
)
def test_the_shortest_step_is_longer_where_the_slope_turns_round(after, part):
    """Each look sees a slope of 1 turn into one of `after` the other way; between, it is small."""
    x = torch.nn.Parameter(torch.zeros((), dtype=torch.float64))
    group = {"params": [x], "norm": Sign(normalized=False)}
    optimizer = ClippedScion([group], rho="auto", alpha=1 - 1e-9)
    for step in range(1004):
        x.grad = torch.tensor({4: 1.0, 0: -after}.get(step % 5, 0.01), dtype=torch.float64)
        optimizer.step()
    longest = (50 / 1004) ** 0.5
    assert float(optimizer.metrics()["step_factor"]) == pytest.approx(part * longest, rel=1e-6)


def test_a_state_without_the_mean_slope_loads():
    model, other = build(), build()
    old, new = (ClippedScion(groups(m), 0.05, rho="auto", alpha=0.3) for m in (model, other))
    train(model, old, 30)
    state = old.state_dict()
    for group in state["param_groups"]:
        del group["curvature"][6]
    new.load_state_dict(state)
    train(other, new, 5)
    assert all(torch.isfinite(p).all() for p in other.parameters())


@pytest.mark.parametrize("norm", [Euclidean(), Sign(normalized=False)])
def test_a_parabola_has_its_curvature(norm):
    """Along the sign direction of n entries, x^2 L / 2 summed curves by n L."""
    x = torch.nn.Parameter(torch.full((4,), 3.0, dtype=torch.float64))
    optimizer = ClippedScion([{"params": [x], "norm": norm}], 0.5, rho="auto", alpha=1 - 1e-6)
    for _ in range(16):
        x.grad = 7 * x.detach()
        optimizer.step()
    curvature = 7 if isinstance(norm, Euclidean) else 4 * 7
    assert float(optimizer.param_groups[0]["rho"]) == pytest.approx(0.5 * curvature, rel=1e-4)


@pytest.mark.parametrize("first", ["no gradient", "no step", "not finite"])
def test_a_first_step_of_nothing_is_forgotten(first):
    """Tools for checkpoints take one to create the state."""
    model, other = build(), build()
    optimizer, plain = (
        ClippedScion(groups(m), 0.05, rho="auto", alpha=0.3) for m in (model, other)
    )
    for p in model.parameters():
        p.grad = torch.full_like(p, float("nan") if first == "not finite" else 0.0)
    if first == "no step":
        for group in optimizer.param_groups:
            group["lr"] = 0.0
    optimizer.step()
    for group in optimizer.param_groups:
        group["lr"] = 0.05
    train(model, optimizer, 15)
    train(other, plain, 15)
    assert all(
        torch.equal(p, q) for p, q in zip(model.parameters(), other.parameters(), strict=True)
    )


@pytest.mark.parametrize("alpha", [0.1, 0.9])
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_steps_lie_between_two_lengths(alpha, scale):
    """On a slope, which does not curve, and in a valley narrower than a step is long."""
    for steep in (False, True):
        x = torch.nn.Parameter(torch.ones(5, dtype=torch.float64))
        group = {"params": [x], "norm": Euclidean()}
        optimizer = ClippedScion([group], 0.1, rho="auto", alpha=alpha)
        for k in range(1, 400):
            before = x.detach().clone()
            x.grad = scale * (before if steep else torch.ones_like(before))
            optimizer.step()
            shortest, longest = measured_lengths(k)
            length = float((x.detach() - before).norm()) / 0.1
            assert shortest * (1 - 1e-12) <= length <= longest * (1 + 1e-12)
        assert steep or length == pytest.approx(longest)


@pytest.mark.parametrize("variant", [1, 2])
@pytest.mark.parametrize("slope", [lambda x: x - 3, lambda x: 5 * (x - 0.4)])
def test_shares_lie_between_two_lengths(slope, variant):
    """On an interval, where every step goes to one of the ends, along the momentum."""
    x = torch.nn.Parameter(torch.tensor([-0.7], dtype=torch.float64))
    group = {"params": [x], "norm": Euclidean()}
    optimizer = ClippedScion([group], 0.2, constrained=True, variant=variant)
    for k in range(1, 200):
        before = x.item()
        x.grad = slope(x.detach())
        optimizer.step()
        moved = x.item() - before
        shortest, longest = measured_lengths(k)
        share = abs(moved) / abs(before - math.copysign(1, moved)) / 0.2
        # What is left to the end is known to the rounding of 1.
        rounding = 1e-15 / abs(before - math.copysign(1, moved))
        assert shortest * (1 - 1e-12) - rounding <= share <= longest * (1 + 1e-12) + rounding


def test_a_number_in_every_group_ends_it():
    model, other = build(), build()
    optimizer = ClippedScion(groups(model), 0.05, rho="auto")
    train(model, optimizer, 12)
    rho = float(optimizer.param_groups[0]["rho"])
    for group in optimizer.param_groups:
        group["rho"] = rho
    saved = copy.deepcopy(optimizer.state_dict())
    assert all("curvature" not in group for group in saved["param_groups"])
    fixed = ClippedScion(groups(other), 0.05, rho=1.0)
    with torch.no_grad():
        for p, q in zip(model.parameters(), other.parameters(), strict=True):
            q.copy_(p)
    fixed.load_state_dict(saved)
    train(model, optimizer, 9, start=12)
    train(other, fixed, 9, start=12)
    assert all(
        torch.equal(p, q) for p, q in zip(model.parameters(), other.parameters(), strict=True)
    )


def test_a_step_size_in_a_tensor_is_its_value():
    model, other = build(), build()
    lr = torch.tensor(0.05, dtype=torch.float64)
    optimizer = ClippedScion(groups(model), lr, rho="auto")
    plain = ClippedScion(groups(other), 0.05, rho="auto")
    train(model, optimizer, 5)
    before = [p.detach().clone() for p in model.parameters()]
    lr.fill_(float("nan"))  # as a broken schedule may leave it
    train(model, optimizer, 1, start=9)
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), before, strict=True))
    lr.fill_(0.02)
    train(model, optimizer, 9, start=5)
    train(other, plain, 5)
    for group in plain.param_groups:
        group["lr"] = 0.02
    train(other, plain, 9, start=5)
    for p, q in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.allclose(p, q, rtol=1e-10, atol=1e-12)


def test_smaller_steps_of_a_group_count_as_such():
    """Two parabolas, one of which moves half as far: the curvature along the way they go."""
    a, b = (torch.nn.Parameter(torch.full((1,), 2.0, dtype=torch.float64)) for _ in range(2))
    made = [{"params": [a], "lr": 0.4}, {"params": [b], "lr": 0.2}]
    optimizer = ClippedScion(
        [{"norm": Euclidean(), **g} for g in made], 0.4, rho="auto", alpha=1 - 1e-6
    )
    for _ in range(16):
        a.grad, b.grad = 3 * a.detach(), 8 * b.detach()
        optimizer.step()
    curvature = optimizer.state_dict()["param_groups"][0]["curvature"][-2]
    assert curvature == pytest.approx(3 + 8 / 4, rel=1e-4)


def test_refusals():
    model = build()
    with pytest.raises(ValueError, match=r"rho='Auto' must be a positive number or \"auto\""):
        ClippedScion(groups(model), 0.1, rho="Auto")
    with pytest.raises(ValueError, match="alpha=1 does not keep"):
        ClippedScion(groups(model), 0.1, rho="auto", alpha=1.0)
    with pytest.raises(ValueError, match='capturable=True and rho="auto"'):
        ClippedScion(groups(model), 0.1, rho="auto", capturable=True)
    optimizer = ClippedScion(groups(model), 0.1, rho="auto")
    train(model, optimizer, 3)
    before = [p.detach().clone() for p in model.parameters()]
    optimizer.param_groups[0]["alpha"] = 1.0
    with pytest.raises(ValueError, match="alpha=1 does not keep"):
        train(model, optimizer, 1)
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), before, strict=True))


def test_foreign_states_are_refused():
    model = build()
    measured = ClippedScion(groups(model), 0.1, rho="auto")
    fixed = ClippedScion(groups(model), 0.1, rho=2.0)
    train(model, measured, 3)
    saved, plain = measured.state_dict(), fixed.state_dict()
    with pytest.raises(ValueError, match='was saved with rho="auto"'):
        fixed.load_state_dict(saved)
    with pytest.raises(ValueError, match=r"saved with rho=2\.0 and has measured nothing"):
        measured.load_state_dict(plain)
    for bad in ([1.0], "auto", [float("nan")] * 9, [-1.0] * 9, [1] * 9):
        broken = copy.deepcopy(saved)
        broken["param_groups"][0]["curvature"] = bad
        with pytest.raises(ValueError, match="saved curvature"):
            measured.load_state_dict(broken)
    assert measured.state_dict()["param_groups"] == saved["param_groups"]
