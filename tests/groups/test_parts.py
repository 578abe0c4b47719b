"""The plan of a whole model, for the parts of it that ranks hold."""

import pytest
import torch
from torch import nn

from normball import ClippedScion, Scion, param_groups
from tests.groups.models import Language


def parts(model: nn.Module) -> list[nn.Module]:
    """Two modules that together hold every parameter, each under its name."""
    names = [name for name, _ in model.named_parameters(remove_duplicate=False)]
    made = []
    for chosen in (names[: len(names) // 2], names[len(names) // 2 :]):
        part = nn.Module()
        for name in chosen:
            *path, leaf = name.split(".")
            module = part
            for step in path:
                if step not in dict(module.named_children()):
                    module.add_module(step, nn.Module())
                module = module.get_submodule(step)
            whole = model.get_parameter(name)
            p = nn.Parameter(whole.detach().clone(), requires_grad=whole.requires_grad)
            module.register_parameter(leaf, p)
        made.append(part)
    return made


def placed(plan):
    return {
        name: (group["norm"], group["radius"], group.get("counted", True))
        for group in plan
        for name, _ in group["params"]
    }


@pytest.fixture
def model() -> nn.Module:
    model = nn.Sequential(nn.Embedding(9, 4), nn.Linear(4, 6), nn.Linear(6, 4), nn.Linear(4, 9))
    model[3].weight = model[0].weight
    return model


def test_parts_have_the_places_of_the_whole_and_a_copy_counts_once(model):
    whole = placed(param_groups(model))
    first, last = (placed(param_groups(model).of(part)) for part in parts(model))
    assert last.pop("0.weight") == (*whole["0.weight"][:2], False)
    assert first | last == whole
    assert not set(first) & set(last)


def test_a_model_on_the_meta_device_and_what_an_override_says():
    with torch.device("meta"):
        empty = Language(False)
    overrides = {"*.weight": {"lr": 0.5}}
    plan = param_groups(empty, overrides=overrides)
    for part in parts(Language(False)):
        found = plan.of(part)
        held = dict(part.named_parameters())
        names = [name for group in found for name, _ in group["params"]]
        assert sorted(names) == sorted(n for n, p in held.items() if p.requires_grad)
        for group in found:
            assert all(p is held[name] for name, p in group["params"])
            speaks = any(name.endswith(".weight") for name, _ in group["params"])
            assert group.get("lr") == (0.5 if speaks else None)
        assert [row.name for row in found.rows] == list(held)


def test_a_part_of_one_process_trains(model):
    plan = param_groups(model)
    (alone, _) = parts(model)
    optimizer = Scion(plan.of(alone), 0.1)
    before = [p.detach().clone() for p in alone.parameters()]
    for p in alone.parameters():
        p.grad = torch.ones_like(p)
    optimizer.step()
    assert all(not torch.equal(p, q) for p, q in zip(alone.parameters(), before, strict=True))


def test_a_state_with_too_few_names_is_refused(model):
    optimizer = Scion(param_groups(model), 0.1)
    state = optimizer.state_dict()
    state["param_groups"][0]["param_names"] = []
    with pytest.raises(ValueError, match=r"the param_names \[\]: one name for each parameter"):
        optimizer.load_state_dict(state)


def test_other_names_and_shapes_and_no_parameter(model):
    plan = param_groups(model)
    with pytest.raises(ValueError, match=r"^weight of shape \(6, 4\) is unknown in the plan"):
        plan.of(nn.Linear(4, 6))
    other = nn.Sequential(nn.Identity(), nn.Linear(4, 5))
    with pytest.raises(ValueError, match=r"1\.weight of shape \(5, 4\) is of shape \(6, 4\) in"):
        plan.of(other)
    with pytest.raises(ValueError, match="this part has no parameter for an optimizer"):
        plan.of(nn.Sequential(nn.Identity()))


def test_a_frozen_part_has_its_groups(model):
    frozen = nn.Sequential(nn.Identity(), nn.Linear(4, 6)).requires_grad_(False)
    plan = param_groups(model).of(frozen)
    assert sorted(name for group in plan for name, _ in group["params"]) == ["1.bias", "1.weight"]
    assert ClippedScion(plan).param_groups


@pytest.mark.parametrize("steps", [0, 2])
def test_layers_laid_end_to_end_after_the_start_are_refused(steps):
    """What DeepSpeed's ZeRO 1 and 2 put into the groups, before the first step or later."""
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    optimizer = ClippedScion(param_groups(model), 0.1, rho=1.0)

    def step():
        for group in optimizer.param_groups:
            for p in group["params"]:
                p.grad = torch.ones_like(p)
        optimizer.step()

    for _ in range(steps):
        step()
    flat = []
    for group in optimizer.param_groups:
        part = torch.cat([p.detach().reshape(-1) for p in group["params"]])
        group["params"] = [nn.Parameter(part)]
        flat.append((group["params"][0], part.clone()))
    with pytest.raises(ValueError, match="laid layers end to end, as DeepSpeed's ZeRO does"):
        step()
    assert all(torch.equal(p, before) for p, before in flat)
