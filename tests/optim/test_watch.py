"""Warnings about a training that stands still; each is given once."""

import copy
import pickle
import warnings

import pytest
import torch
from torch import nn

from normball import GGNC, ClippedScion, Scion, param_groups
from normball.norms import Euclidean


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4))


def train(model, optimizer, steps, x=None):
    x = torch.randn(16, 6) if x is None else x
    for _ in range(steps):
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()


def said(function, *args, **options):
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        function(*args, **options)
    return [str(warning.message) for warning in found]


def test_no_gradient_anywhere():
    with torch.device("meta"):
        model = network()
    optimizer = ClippedScion(param_groups(model), lr=0.02, rho=5.0)
    model.to_empty(device="cpu")
    for p in model.parameters():
        nn.init.normal_(p)
    texts = said(train, model, optimizer, 12)
    assert len(texts) == 2
    assert "no parameter of this optimizer has a gradient" in texts[0]
    assert texts[1].startswith("4 of the model's parameters have a gradient, but this optimizer")


@pytest.mark.parametrize("bad", ["gradient", "rho"])
def test_steps_skipped_in_a_row(bad):
    model = network()
    x, rho = torch.randn(16, 6), torch.tensor(5.0)
    optimizer = ClippedScion(param_groups(model), lr=0.02, rho=rho)
    assert said(train, model, optimizer, 25, x) == []
    if bad == "gradient":
        x[0, 0] = float("nan")
    else:
        rho.fill_(-1.0)
    texts = said(train, model, optimizer, 40, x)
    assert len(texts) == 1
    assert texts[0].startswith("the last 10 steps were skipped")


def test_some_skipped_steps_are_no_reason_to_warn():
    model = network()
    optimizer = Scion(param_groups(model), 0.02)
    x = torch.randn(16, 6)
    spoilt = x.clone()
    spoilt[0, 0] = float("inf")
    for _ in range(8):
        assert said(train, model, optimizer, 1, x) == []
        assert said(train, model, optimizer, 9, spoilt) == []


def test_a_parameter_outside_of_the_groups():
    model = network()
    optimizer = Scion(param_groups(model), 0.02)
    train(model, optimizer, 3)
    model.insert(1, nn.Linear(8, 8))
    texts = said(train, model, optimizer, 20)
    assert len(texts) == 1
    assert texts[0].startswith("2 of the model's parameters have a gradient")
    assert "1.weight, 1.bias" in texts[0]
    assert "add_new(param_groups(model))" in texts[0]
    before = model[1].weight.detach().clone()
    optimizer.add_new(param_groups(model))
    assert said(train, model, optimizer, 20) == []
    assert not torch.equal(model[1].weight, before)


@pytest.mark.parametrize("kind", ["clipped", "scion", "ggnc"])
def test_a_step_for_every_parameter_in_backward(kind):
    make = {
        "clipped": lambda p: ClippedScion([p], 0.02, rho=5.0),
        "scion": lambda p: Scion([p], 0.02),
        "ggnc": lambda p: GGNC([p], gamma=0.02, rho=5.0, norm=Euclidean()),
    }[kind]
    model = network()
    optimizers = {p: make(p) for p in model.parameters()}
    for p in optimizers:
        p.register_post_accumulate_grad_hook(lambda p: optimizers[p].step())
    texts = said(lambda: [model(torch.randn(4, 6)).sum().backward() for _ in range(3)])
    assert len(texts) == (0 if kind == "scion" else len(optimizers))
    assert all(text.startswith("step() is called during backward()") for text in texts)
    # One optimizer over all parameters may step there.
    model = network()
    optimizer = ClippedScion(param_groups(model), lr=0.02, rho=5.0)
    model[0].bias.register_post_accumulate_grad_hook(lambda _: optimizer.step())
    assert said(lambda: model(torch.randn(4, 6)).sum().backward()) == []


@pytest.mark.parametrize("kind", [ClippedScion, Scion])
def test_gradients_that_something_else_clips(kind):
    def run(limit):
        model = network()
        optimizer = kind(param_groups(model), 0.02)
        for _ in range(25):
            optimizer.zero_grad()
            x = torch.randn(16, 6)
            (model(x) - 3 * x[:, :4]).square().mean().backward()
            if limit is not None:
                nn.utils.clip_grad_norm_(model.parameters(), limit)
            optimizer.step()

    assert said(run, None) == []
    texts = said(run, 0.01)
    assert len(texts) == (kind is ClippedScion)  # a step of Scion hardly depends on the scale
    assert all("the same Euclidean norm, 0.01: something clips" in text for text in texts)


def test_one_gradient_for_ever_is_not_clipped():
    p = nn.Parameter(torch.ones(4))
    optimizer = ClippedScion([p], 0.01, rho=1.0)
    p.grad = torch.full((4,), 0.5)
    assert said(lambda: [optimizer.step() for _ in range(50)]) == []


def test_layers_without_groups():
    model = network()
    for make in (lambda p, **k: ClippedScion(p, 0.02, **k), lambda p, **k: Scion(p, 0.02, **k)):
        for given in (model.parameters(), model.named_parameters(), list(model.parameters())):
            texts = said(make, given)
            assert len(texts) == 1
            assert "param_groups(model)" in texts[0]
        assert said(make, model.parameters(), radius=1.0) == []
        assert said(make, param_groups(model)) == []
        assert said(make, [model[0].weight, model[0].bias]) == []
        assert said(make, [{"params": [p]} for p in model.parameters()]) == []


def test_copies_watch_for_themselves():
    model = network()
    optimizer = ClippedScion(param_groups(model), lr=0.02, rho=5.0)
    x = torch.full((16, 6), float("nan"))
    train(model, optimizer, 5, x)
    for twin in (copy.deepcopy(optimizer), pickle.loads(pickle.dumps(optimizer))):
        params = [p for g in twin.param_groups for p in g["params"]]
        for p in params:
            p.grad = torch.full_like(p, float("nan"))
        texts = said(lambda twin=twin: [twin.step() for _ in range(20)])
        assert len(texts) == 1
