"""The way of someone new: a first step in under ten lines, and mistakes told readably."""

import inspect

import pytest
import torch
from torch import nn

from normball import ClippedScion, Scion, SmoothnessProbe, param_groups
from normball.norms import Spectral


def first_step() -> bool:
    """Nine lines from nothing to a step."""
    import torch

    from normball import ClippedScion, param_groups

    model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    before = model[0].weight.detach().clone()
    optimizer = ClippedScion(param_groups(model), lr=0.03, rho=5.0)
    model(torch.randn(16, 4)).square().mean().backward()
    optimizer.step()
    return not torch.equal(before, model[0].weight)


def test_a_first_step_takes_fewer_than_ten_lines() -> None:
    assert first_step()
    body = inspect.getsource(first_step).splitlines()[2:-1]
    assert len([line for line in body if line.strip()]) < 10


def model() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))


def clipped(params: object, **settings: object) -> ClippedScion:
    return ClippedScion(params, **{"lr": 0.1, "rho": 1.0} | settings)


MISTAKES = {
    "the model": (lambda m: clipped(m), r"Linear.*param_groups\(model\)"),
    "a state dict": (lambda m: clipped(m.state_dict()), r"str.*param_groups\(model\)"),
    "parameters for the plan": (lambda m: param_groups(m.parameters()), "takes the model itself"),
    "nothing": (lambda m: clipped([]), "empty parameter list"),
    "one parameter twice": (lambda m: clipped([m[0].weight] * 2), "given twice"),
    "a word for rho": (lambda m: ClippedScion(param_groups(m), rho="best"), "rho='best'"),
    "an average above 1": (lambda m: clipped(param_groups(m), average=2.0), "average=2.0"),
    "a text for lr": (lambda m: clipped(param_groups(m), lr="0.1"), "lr='0.1'"),
    "a negative lr": (lambda m: clipped(param_groups(m), lr=-0.1), "lr=-0.1"),
    "rho of zero": (lambda m: clipped(param_groups(m), rho=0.0), "rho=0.0"),
    "undefined rho": (lambda m: clipped(param_groups(m), rho=float("nan")), "rho=nan"),
    "alpha of zero": (lambda m: clipped(param_groups(m), alpha=0.0), "alpha=0.0"),
    "a long way in the ball": (
        lambda m: clipped(param_groups(m), lr=2.0, constrained=True),
        r"lr=2.*share of the way",
    ),
    "Adam's weight decay": (lambda m: clipped(param_groups(m), weight_decay=0.1), "weight_decay"),
    "weight decay in a group": (
        lambda m: clipped([{"params": list(m.parameters()), "weight_decay": 0.1}]),
        "weight_decay.*constrained=True",
    ),
    "rho for Scion": (lambda m: Scion(param_groups(m), lr=0.1, rho=1.0), "rho"),
    "a norm by name": (
        lambda m: clipped([{"params": list(m.parameters()), "norm": "spectral"}]),
        r"did you mean Spectral\(\)",
    ),
    "a norm's class": (
        lambda m: clipped([{"params": list(m.parameters()), "norm": Spectral}]),
        r"did you mean Spectral\(\)",
    ),
    "a matrix norm for a vector": (
        lambda m: clipped([{"params": [m[0].bias], "norm": Spectral()}]),
        r"needs a matrix.*RMS\(\)",
    ),
    "a name that matches nothing": (
        lambda m: param_groups(m, overrides={"*bais": {"radius": 1}}),
        r"'\*bais'.*near it are",
    ),
    "the state of Adam": (
        lambda m: clipped(param_groups(m)).load_state_dict(
            torch.optim.Adam(m.parameters()).state_dict()
        ),
        "parameter groups.*build it from the same",
    ),
    "a probe for Adam": (
        lambda m: SmoothnessProbe(torch.optim.Adam(m.parameters()), every=2),
        "not in those of Adam",
    ),
    "whole numbers": (lambda m: clipped([torch.zeros(3, dtype=torch.int64)]), "int64"),
    "something computed": (lambda m: clipped([m[0].weight * 2]), "not a leaf"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_told_and_changes_nothing(name: str) -> None:
    make, message = MISTAKES[name]
    made = model()
    before = [p.detach().clone() for p in made.parameters()]
    with pytest.raises((TypeError, ValueError), match=message):
        make(made)
    assert all(torch.equal(a, b) for a, b in zip(before, made.parameters(), strict=True))
