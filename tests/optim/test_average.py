"""Averaged weights: what they are, how they change places with the fast ones, what is refused."""

import copy

import pytest
import torch
from torch import nn

from normball import S3CG, ClippedScion, Scion, SmoothnessProbe, find_lr
from normball.norms import RMS, Euclidean
from tests.optim.network import averages, bits, build, groups, loss, same, train
from tests.optim.optimizers import OPTIMIZERS
from tests.optim.reference import LAYERS, ratios

pytestmark = pytest.mark.filterwarnings("ignore:.*(starts|is) outside")
AVERAGED = [row for row in OPTIMIZERS if "average" in row.options]
every = pytest.mark.parametrize("row", AVERAGED, ids=str)
sixteen = pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])


def recipe(model, average=0.1, **options):
    return ClippedScion(groups(model), 0.02, rho=1.5, nesterov=True, average=average, **options)


def follow(model, optimizer, weight, steps):
    """Take steps, and return the average of the weights by its formula, in float64."""
    mean = None
    for t in range(1, steps + 1):
        train(model, optimizer, 1, start=t)
        x = {n: p.detach().double() for n, p in model.named_parameters()}
        share = min(1.0, 1 / (weight * t))
        mean = x if mean is None else {n: mean[n] + share * (x[n] - mean[n]) for n in x}
    return mean


# -- what it is ------------------------------------------------------------------------------------


@every
def test_of_weight_one_it_is_the_mean_of_all_iterates(row):
    model = build()
    optimizer = row(row.groups(model), average=1.0)
    seen = []
    for step in range(12):
        train(model, optimizer, 1, start=step)
        seen.append(bits(model))
    optimizer.eval()
    for name, p in model.named_parameters():
        mean = torch.stack([x[name] for x in seen]).mean(0)
        assert torch.allclose(p, mean, rtol=1e-12, atol=1e-14), name


@every
def test_of_weight_a_tenth_it_is_that_of_the_last_tenth(row):
    """Weights of about (j/t)^9: for a whole number 1/c a product of binomials, closed form."""
    model = build()
    optimizer = row(row.groups(model), average=0.5)
    seen = []
    for step in range(12):
        train(model, optimizer, 1, start=step)
        seen.append(bits(model))
    # c = 1/2: (2/t)(1 - 2/(t+1))...: iterate j of n weighs 2 (j - 1) / (n (n - 1)).
    weights = [2 * (j - 1) / (12 * 11) for j in range(1, 13)]
    assert sum(weights) == pytest.approx(1)
    optimizer.eval()
    for name, p in model.named_parameters():
        mean = sum(w * x[name] for w, x in zip(weights, seen, strict=True))
        assert torch.allclose(p, mean, rtol=1e-12, atol=1e-14), name


@sixteen
def test_of_sixteen_bits_it_is_kept_in_float32(dtype):
    model = build(dtype)
    optimizer = recipe(model, 0.1)
    mean = follow(model, optimizer, 0.1, 25)
    for name, average in averages(model, optimizer).items():
        assert average.dtype == torch.float32
        # Not that of the rounded averages: closer than half a digit of 16 bits.
        assert torch.allclose(average.double(), mean[name], rtol=1e-5, atol=1e-6), name
    before, kept = bits(model), averages(model, optimizer)
    assert not any("fast" in entry for entry in optimizer.state.values())
    optimizer.eval()
    for name, p in model.named_parameters():
        assert torch.equal(p, kept[name].to(dtype)), name
        assert optimizer.state[p]["fast"].dtype == dtype
    optimizer.train()
    assert same(before, bits(model))
    assert same(kept, averages(model, optimizer))
    assert not any("fast" in entry for entry in optimizer.state.values())


def test_bytes_of_the_state():
    for dtype, average, wanted in (
        (torch.float32, None, 4),
        (torch.float32, 0.1, 8),
        (torch.bfloat16, 0.1, 8),
        (torch.bfloat16, None, 4),
    ):
        model = build(dtype)
        optimizer = recipe(model, average)
        train(model, optimizer, 2)
        held = sum(x.numel() * x.itemsize for s in optimizer.state.values() for x in s.values())
        assert held == wanted * sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@every
def test_a_skipped_step_does_not_count(row, bad):
    model, other = build(), build()
    optimizer, clean = row(row.groups(model)), row(row.groups(other))
    for step in range(6):
        train(model, optimizer, 1, start=step)
        train(other, clean, 1, start=step)
        if step in (0, 3):
            model.head.weight.grad[0, 0] = bad
            optimizer.step()
    assert float(optimizer.metrics()["skipped"]) == 2
    optimizer.eval()
    clean.eval()
    assert same(bits(model), bits(other))


def test_a_parameter_without_gradient_counts_with_its_value():
    """Not in a step, and not before its first one."""
    model = build()
    optimizer = recipe(model, 1.0)
    seen = []
    for step in range(6):
        optimizer.zero_grad()
        loss(model, step).backward()
        if step < 2:
            model.head.weight.grad = None
        if step == 4:
            model.conv1.weight.grad = None
        optimizer.step()
        seen.append(bits(model))
        assert ("average" in optimizer.state.get(model.head.weight, {})) == (step >= 2)
    assert torch.equal(seen[0]["head.weight"], seen[1]["head.weight"])
    optimizer.eval()
    for name, p in model.named_parameters():
        mean = torch.stack([x[name] for x in seen]).mean(0)
        assert torch.allclose(p, mean, rtol=1e-12, atol=1e-14), name


def test_a_parameter_that_joins_late_was_where_it_is():
    model = build()
    first, *rest = groups(model)
    optimizer = ClippedScion([first], 0.02, rho=1.5, average=1.0)
    seen = []
    for step in range(6):
        if step == 3:
            for group in rest:
                optimizer.add_param_group(group)
        train(model, optimizer, 1, start=step)
        seen.append(bits(model))
    assert {group["average"] for group in optimizer.param_groups} == {1.0}
    optimizer.eval()
    for name, p in model.named_parameters():
        mean = torch.stack([x[name] for x in seen]).mean(0)
        assert torch.allclose(p, mean, rtol=1e-12, atol=1e-14), name


def test_weights_that_are_loaded_while_training_are_iterates_like_others():
    model = build()
    optimizer = recipe(model, 1.0)
    train(model, optimizer, 3)
    before = averages(model, optimizer)
    model.load_state_dict(build(seed=9).state_dict())
    assert same(before, averages(model, optimizer))
    train(model, optimizer, 1, start=3)
    for name, p in model.named_parameters():
        mean = before[name] + (p.detach() - before[name]) / 4
        assert torch.allclose(optimizer.state[p]["average"], mean, rtol=1e-12, atol=1e-14), name


# -- into the model and back -----------------------------------------------------------------------


@every
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_there_and_back_bit_for_bit_and_in_place(row, dtype):
    model, other = build(dtype), build(dtype)
    optimizer, plain = row(row.groups(model)), row(row.groups(other))
    places = [p.data_ptr() for p in model.parameters()]
    with torch.no_grad():
        for m in (model, other):
            m.conv1.bias[0] = -0.0
    for step in range(5):
        train(model, optimizer, 1, start=step)
        train(other, plain, 1, start=step)
        fast, mean = bits(model), averages(model, optimizer)
        for _ in range(2):
            optimizer.eval()
            assert all(
                torch.equal(p, mean[n].to(dtype)) and p.requires_grad
                for n, p in model.named_parameters()
            )
        for _ in range(2):
            optimizer.train()
            assert same(fast, bits(model))
            assert same(mean, averages(model, optimizer))
    assert places == [p.data_ptr() for p in model.parameters()]
    # Whoever looks at the average trains as one who does not.
    assert same(bits(model), bits(other))
    assert same(averages(model, optimizer), averages(other, plain))


@every
def test_before_the_first_step_nothing_happens(row):
    """The average of no steps is the start; trainers evaluate first."""
    model, other = build(), build()
    optimizer, plain = row(row.groups(model)), row(row.groups(other))
    before = bits(model)
    optimizer.eval()
    assert same(before, bits(model))
    assert not optimizer.state
    optimizer.train()
    assert same(before, bits(model))
    train(model, optimizer, 3)
    train(other, plain, 3)
    assert same(averages(model, optimizer), averages(other, plain))


def test_without_an_average_the_two_do_nothing():
    model = build()
    optimizer = ClippedScion(groups(model), 0.02, rho=1.5)
    train(model, optimizer, 2)
    before = bits(model)
    optimizer.eval()
    train(model, optimizer, 0)
    assert same(before, bits(model))
    train(model, optimizer, 1)
    optimizer.train()
    assert not any("average" in entry for entry in optimizer.state.values())


@every
def test_a_step_in_eval_mode_is_refused_before_anything(row):
    model = build()
    optimizer = row(row.groups(model))
    train(model, optimizer, 2)
    optimizer.eval()
    before, called = bits(model), []
    match = r"averaged weights are in the model .*: call optimizer\.train\(\) before the next step"
    with pytest.raises(RuntimeError, match=match):
        optimizer.step(lambda: called.append(1))
    with pytest.raises(RuntimeError, match=match):
        SmoothnessProbe(optimizer).step(lambda: called.append(1))
    if isinstance(optimizer, ClippedScion | Scion):
        with pytest.raises(RuntimeError, match=match):
            find_lr(optimizer, lambda: called.append(1))
    assert not called
    assert same(before, bits(model))
    optimizer.train()
    train(model, optimizer, 1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_weights_written_to_in_eval_mode_are_seen(dtype):
    model = build(dtype)
    optimizer = recipe(model)
    train(model, optimizer, 3)
    optimizer.eval()
    model.load_state_dict(build(dtype, seed=4).state_dict())
    before, kept = bits(model), copy.deepcopy(optimizer.state_dict())
    match = r"a parameter of shape \(11, 6\) was written to since eval\(\).*: call train\(\) before"
    with pytest.raises(RuntimeError, match=match):
        optimizer.train()
    assert same(before, bits(model))
    after = optimizer.state_dict()
    assert after["param_groups"] == kept["param_groups"]
    for old, new in zip(kept["state"].values(), after["state"].values(), strict=True):
        assert same(old, new)
    with pytest.raises(RuntimeError, match=r"call optimizer\.train"):
        optimizer.step()


# -- in the ball -----------------------------------------------------------------------------------

BALLS = {
    "scion": lambda p, **o: Scion(p, constrained=True, **o),
    "variant 1": lambda p, **o: ClippedScion(p, rho=0.3, constrained=True, variant=1, **o),
    "variant 2": lambda p, **o: ClippedScion(p, rho=0.3, constrained=True, **o),
}


@pytest.mark.parametrize("make", BALLS)
@pytest.mark.parametrize("seed", range(3))
def test_the_average_stays_in_the_ball(make, seed):
    """Over random runs, with steps to the edge; after its radius became smaller, in that one."""
    random = torch.Generator().manual_seed(seed)
    model = build(seed=seed)
    lr, weight = (float(torch.rand((), generator=random)) for _ in range(2))
    options = {"lr": lr, "alpha": 0.4, "average": 1 - weight, "nesterov": seed % 2 == 0}
    optimizer = BALLS[make](groups(model), **options)
    largest = dict.fromkeys(LAYERS, 1.0)
    for step in range(30):
        if step == 15:  # a start outside again: the ball of 0.4 times the size
            for group in optimizer.param_groups:
                group["radius"] *= 0.4
            largest = dict.fromkeys(LAYERS, 0.4)
            optimizer.eval()
            outside = {n: r for n, r in ratios(model).items() if r > 0.4}
            assert outside, "the smaller ball must matter"
            optimizer.train()
        for p in model.parameters():
            p.grad = torch.randn(p.shape, generator=random, dtype=p.dtype)
        optimizer.step()
        optimizer.eval()
        for name, ratio in ratios(model).items():
            assert ratio <= largest[name] + 1e-9, (step, name)
        optimizer.train()


def test_the_average_of_one_ball_stays_in_it():
    params = [nn.Parameter(torch.full((3,), 0.5)), nn.Parameter(torch.full((4,), -0.5))]
    optimizer = S3CG(params, gamma=1.0, rho=1.0, beta=2.0, norm=Euclidean(), average=1.0)
    random = torch.Generator().manual_seed(0)
    for step in range(20):
        if step == 10:
            optimizer.param_groups[0]["radius"] = 0.5
        for p in params:
            p.grad = torch.randn(p.shape, generator=random)
        optimizer.step()
        optimizer.eval()
        length = torch.cat([p.detach() for p in params]).norm()
        assert float(length) <= (2.0 if step < 10 else 0.5) * (1 + 1e-6)
        optimizer.train()


def test_an_average_inside_a_smaller_ball_is_left_alone():
    p = nn.Parameter(torch.tensor([0.5], dtype=torch.float64))
    optimizer = Scion([{"params": [p], "norm": RMS()}], 0.5, constrained=True, average=1.0)
    seen = []
    for gradient in (1.0, -1.0, -1.0, 1.0):
        p.grad = torch.full_like(p, gradient)
        optimizer.step()
        seen.append(p.item())
    mean = sum(seen) / 4
    assert abs(mean) < 0.3
    optimizer.param_groups[0]["radius"] = 0.3
    optimizer.step()
    assert float(optimizer.state[p]["average"]) == pytest.approx(mean + (p.item() - mean) / 5)
