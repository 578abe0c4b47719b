"""The life of parameter groups: layers that are unfrozen, added, taken out, or replaced."""

import copy
import io
import itertools
import pickle

import pytest
import torch
from torch import nn

from normball import GGNC, ClippedScion, Scion, param_groups
from normball.norms import RMS, ByShape, Sign, Spectral
from tests.optim.network import bits, same

ROWS = [{"rho": 5.0}, {"rho": "auto"}, {"rho": 5.0, "average": 0.5}, {"constrained": True}]
every = pytest.mark.parametrize("options", ROWS, ids=str)
pytestmark = pytest.mark.filterwarnings("ignore:.*starts outside")


def network(layers=3):
    torch.manual_seed(0)
    sizes = [6, *[8] * (layers - 1), 4]
    return nn.Sequential(*(nn.Linear(a, b) for a, b in itertools.pairwise(sizes))).double()


def train(model, optimizer, steps, start=0):
    for step in range(start, start + steps):
        x = torch.randn(16, 6, generator=torch.Generator().manual_seed(step), dtype=torch.float64)
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()


@every
def test_a_layer_unfrozen_later_trains_as_one_that_had_no_gradient_until_then(options):
    model, other = network(), network()
    model[0].requires_grad_(False)
    optimizer = ClippedScion(param_groups(model), lr=0.02, **options)
    reference = ClippedScion(param_groups(other), lr=0.02, **options)
    train(model, optimizer, 3)
    assert not optimizer.state.keys() & set(model[0].parameters())
    hook = other[0].register_forward_hook(lambda m, x, y: y.detach())
    train(other, reference, 3)
    hook.remove()
    model[0].requires_grad_(True)
    train(model, optimizer, 3, start=3)
    train(other, reference, 3, start=3)
    assert same(bits(model), bits(other))


@every
def test_one_group_for_every_parameter_steps_as_one_group_does(options):
    def build(apart):
        torch.manual_seed(1)
        params = [nn.Parameter(torch.randn(4, 4, dtype=torch.float64)) for _ in range(6)]
        groups = [{"params": [p]} for p in params] if apart else [{"params": params}]
        for i, group in enumerate(groups):
            group |= {"norm": Spectral(), "radius": 2.0 if i < 4 or not apart else 2}
        return params, ClippedScion(groups, lr=0.02, **options)

    (ours, apart), (theirs, together) = build(True), build(False)
    generator = torch.Generator().manual_seed(2)
    for _ in range(4):
        for p, q in zip(ours, theirs, strict=True):
            p.grad = torch.randn(4, 4, generator=generator, dtype=torch.float64)
            q.grad = p.grad.clone()
        apart.step()
        together.step()
        name = "gap" if options.get("constrained") else "dual_norm"
        mine, other = apart.metrics(), together.metrics()
        assert torch.allclose(mine[name], other[name], rtol=1e-12, atol=0)
        assert torch.allclose(mine["group_dual_norms"].sum(), other["group_dual_norms"].sum())
    for p, q in zip(ours, theirs, strict=True):
        assert torch.allclose(p, q, rtol=1e-10, atol=1e-12)
    alone = [2.0 * float(torch.linalg.svdvals(estimate(apart, p)).sum()) for p in ours]
    assert mine["group_dual_norms"].tolist() == pytest.approx(alone, rel=1e-4)


def estimate(optimizer, p):
    """Return what the last step went by: a look ahead from the momentum."""
    return 0.9 * optimizer.state[p]["momentum"] + 0.1 * p.grad


def test_groups_whose_settings_become_equal_or_differ_later():
    def build():
        torch.manual_seed(1)
        params = [nn.Parameter(torch.randn(3, 3, dtype=torch.float64)) for _ in range(3)]
        groups = [{"params": [p], "norm": Spectral()} for p in params]
        return params, ClippedScion(groups, lr=0.02, rho=0.01)

    params, optimizer = build()
    for lrs in ([0.02, 0.02, 0.02], [0.02, 0.04, 0.02], [0.01, 0.01, 0.04]):
        before = [p.detach().clone() for p in params]
        for p, group, lr in zip(params, optimizer.param_groups, lrs, strict=True):
            p.grad = torch.eye(3, dtype=torch.float64)
            group["lr"] = lr
        optimizer.step()
        moved = [
            float(Spectral().norm(p.detach() - q)) for p, q in zip(params, before, strict=True)
        ]
        assert moved == pytest.approx(lrs, rel=1e-4)


def test_a_group_without_names_joins_groups_with_names_and_the_other_way_round():
    model = network()
    plan = param_groups(nn.Sequential(model[0], model[1]))
    optimizer = ClippedScion(plan, lr=0.02, rho=5.0)
    optimizer.add_param_group({"params": model[2].parameters(), "norm": ByShape()})
    number = len(optimizer.param_groups) - 1
    names = [f"parameter {i} of group {number}" for i in range(2)]
    assert optimizer.param_groups[-1]["param_names"] == names
    train(model, optimizer, 2)

    bare = ClippedScion([model[0].weight], lr=0.02, rho=5.0)
    bare.add_param_group({"params": [("head", model[2].weight)]})
    assert "param_names" not in bare.param_groups[1]
    train(model, bare, 2)


@every
def test_a_parameter_put_into_the_list_of_a_group_trains_and_is_saved(options):
    model = network()
    extra = nn.Parameter(torch.randn(8, dtype=torch.float64))
    optimizer = ClippedScion(param_groups(model), lr=0.02, **options)
    train(model, optimizer, 2)
    group = next(g for g in optimizer.param_groups if g["norm"] == RMS())
    group["params"].append(extra)
    extra.grad = torch.ones_like(extra)
    before = extra.detach().clone()
    optimizer.step()
    assert not torch.equal(extra, before)
    assert len(group["param_names"]) == len(group["params"])
    assert group["param_names"][:3] == ["0.bias", "1.bias", "2.bias"]
    del group["params"][1]
    saved = optimizer.state_dict()
    found = next(g for g in saved["param_groups"] if "0.bias" in g["param_names"])
    assert found["param_names"][:2] == ["0.bias", "2.bias"]
    optimizer.load_state_dict(saved)
    train(model, optimizer, 1)


def test_a_parameter_put_into_a_list_is_checked_before_anything_moves():
    model = network()
    optimizer = ClippedScion(param_groups(model), lr=0.02, rho=5.0)
    group = next(g for g in optimizer.param_groups if g["norm"] == Spectral())
    group["params"].append(nn.Parameter(torch.ones(3, dtype=torch.float64)))
    before = bits(model)
    with pytest.raises(ValueError, match=r"parameter 1 of group \d: .*\(3,\)"):
        train(model, optimizer, 1)
    assert same(bits(model), before)
    group["params"][1] = group["params"][0]
    with pytest.raises(ValueError, match=r"1\.weight is in the groups twice"):
        train(model, optimizer, 1)
    assert same(bits(model), before)


@every
def test_what_is_new_in_a_model_joins_its_groups(options):
    model = network()
    optimizer = ClippedScion(param_groups(model), lr=0.02, **options)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda k: 0.5**k)
    train(model, optimizer, 1)
    schedule.step()
    model.insert(2, nn.Linear(8, 8).double())
    model.insert(0, nn.LayerNorm(6).double())
    groups = len(optimizer.param_groups)
    optimizer.add_new(param_groups(model, overrides={"0.weight": {"radius": 0.5}}))
    assert len(optimizer.param_groups) == groups + 1
    assert optimizer.param_groups[-1]["param_names"] == ["0.weight"]
    names = {n: g for g in optimizer.param_groups for n in g["param_names"]}
    assert names["3.weight"]["norm"] == Spectral()
    assert names["3.weight"]["lr"] == 0.01
    assert {p for g in optimizer.param_groups for p in g["params"]} == set(model.parameters())
    before = bits(model)
    train(model, optimizer, 2)
    assert not any(map(torch.equal, bits(model).values(), before.values()))
    optimizer.add_new(param_groups(model))  # nothing is new
    assert sorted(names) == sorted(name for name, _ in model.named_parameters())


def test_what_is_new_is_added_whole_or_not_at_all():
    model = network()
    optimizer = ClippedScion(param_groups(model), lr=0.02, rho=5.0)
    new = [
        {"params": [nn.Parameter(torch.ones(2, 2))], "norm": Spectral(), "radius": 5.0},
        {"params": [nn.Parameter(torch.ones(2))], "norm": Spectral()},
    ]
    before = copy.deepcopy([len(g["params"]) for g in optimizer.param_groups])
    with pytest.raises(ValueError, match=r"\(2,\)"):
        optimizer.add_new(new)
    assert [len(g["params"]) for g in optimizer.param_groups] == before


def test_what_is_new_goes_only_to_a_group_with_its_labels_and_numbers():
    params = [nn.Parameter(torch.ones(2, 2)) for _ in range(5)]
    norm = Spectral()
    optimizer = Scion(
        [{"params": params[:1], "norm": norm, "name": "a"}, {"params": params[1:2], "norm": norm}],
        0.1,
    )
    optimizer.param_groups[0]["lr"] = 0.05
    optimizer.add_new(
        [
            {"params": params[2:3], "norm": norm, "name": "a"},
            {"params": params[3:4], "norm": norm, "lr": 0.1},
            {"params": params[4:5], "norm": norm, "lr": 0.2},
        ]
    )
    place = {id(p): i for i, p in enumerate(params)}
    held = [[place[id(p)] for p in g["params"]] for g in optimizer.param_groups]
    assert held == [[0, 2], [1, 3], [4]]
    with pytest.raises(ValueError, match="single tensor"):
        GGNC([nn.Parameter(torch.ones(2, 2))], gamma=0.1, rho=1.0, norm=norm).add_new(
            [{"params": [nn.Parameter(torch.ones(2, 2))]}]
        )
    auto = ClippedScion([{"params": params[:1], "norm": norm}], 0.1)
    with pytest.raises(ValueError, match='rho="auto" looks back'):
        auto.add_new([{"params": params[1:2]}, {"params": params[2:3], "alpha": 1.0}])
    assert [len(g["params"]) for g in auto.param_groups] == [1]


@pytest.mark.parametrize("rho", [5.0, "auto"])
def test_groups_that_are_all_taken_out_and_filled_anew(rho):
    model, other = network(), network()
    optimizer = ClippedScion(param_groups(model), lr=0.02, rho=rho)
    straight = ClippedScion(param_groups(other), lr=0.02, rho=rho)
    for start in (0, 25):
        train(model, optimizer, 25, start)
        train(other, straight, 25, start)
        if not start:
            optimizer.param_groups.clear()
            for group in param_groups(model):
                optimizer.add_param_group(group)
    assert same(bits(model), bits(other))
    assert float(optimizer.param_groups[0]["rho"]) == float(straight.param_groups[0]["rho"])


def test_labels_stay_in_the_groups_and_in_the_state():
    model = network(2)
    labels = {
        "name": "body",
        "lr_scale": 0.5,
        "initial_lr": 0.1,
        "weight_decay": 0.0,
        "layers": [1, 2],
    }
    optimizer = ClippedScion([dict(g, **labels) for g in param_groups(model)], lr=0.02, rho=5.0)
    train(model, optimizer, 1)
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    other = ClippedScion(param_groups(model), lr=0.02, rho=5.0)
    other.load_state_dict(torch.load(file, weights_only=True))
    for group in (*optimizer.param_groups, *other.param_groups):
        assert {key: group[key] for key in labels} == labels


def test_the_rho_of_sam_is_no_threshold():
    """SAM keeps the radius of its perturbation as `rho` in the groups that it shares."""
    sam = {"rho": 0.05, "adaptive": False, "perturb_eps": 1e-12}
    p = nn.Parameter(torch.ones(2, 2))
    group = Scion([{"params": [p], **sam}], 0.1).param_groups[0]
    assert {key: group[key] for key in sam} == sam
    for make in (
        lambda g: ClippedScion(g, 0.1, rho=5.0),
        lambda g: GGNC(g, gamma=0.1, rho=5.0, norm=Sign()),
    ):
        with pytest.raises(TypeError, match=r"SAM.*build SAM around Scion"):
            make([{"params": [p], **sam}])
    with pytest.raises(TypeError, match="SAM"):
        Scion([{"params": [p], **sam, "alpha": 0.7}], 0.1)


@pytest.mark.parametrize("cycle", ["OneCycleLR", "CyclicLR"])
@pytest.mark.parametrize("make", [ClippedScion, Scion])
def test_schedules_that_cycle_the_momentum_set_alpha(cycle, make):
    model = network(2)
    optimizer = make(param_groups(model), 0.02)
    if cycle == "OneCycleLR":
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.1, total_steps=10)
    else:
        schedule = torch.optim.lr_scheduler.CyclicLR(optimizer, 0.01, 0.1, step_size_up=3)
    theirs = torch.optim.SGD(network(2).parameters(), 0.02, momentum=0.9)
    if cycle == "OneCycleLR":
        other = torch.optim.lr_scheduler.OneCycleLR(theirs, max_lr=0.1, total_steps=10)
    else:
        other = torch.optim.lr_scheduler.CyclicLR(theirs, 0.01, 0.1, step_size_up=3)
    for step in range(9):
        train(model, optimizer, 1, step)
        theirs.step()
        for group in optimizer.param_groups:
            assert group["alpha"] == pytest.approx(1 - theirs.param_groups[0]["momentum"])
            assert group["lr"] == pytest.approx(theirs.param_groups[0]["lr"])
        schedule.step()
        other.step()
    fresh = make(param_groups(model), 0.02)
    fresh.load_state_dict(optimizer.state_dict())
    assert fresh.param_groups[0]["momentum"] == optimizer.param_groups[0]["momentum"]


def test_a_momentum_out_of_range_is_refused_before_anything_moves():
    model = network(2)
    optimizer = ClippedScion(param_groups(model), lr=0.02, rho=5.0)
    train(model, optimizer, 1)
    before = bits(model)
    optimizer.param_groups[0]["momentum"] = 1.5
    with pytest.raises(ValueError, match=r"momentum=1\.5 must lie in \[0, 1\]"):
        train(model, optimizer, 1)
    assert same(bits(model), before)


def test_norm_and_radius_of_all_groups_that_have_none():
    p, q = nn.Parameter(torch.ones(2, 2)), nn.Parameter(torch.ones(2))
    optimizer = Scion([{"params": [p]}, {"params": [q], "radius": 3.0}], 0.1, norm=Sign(), radius=2)
    assert [g["norm"] for g in optimizer.param_groups] == [Sign(), Sign()]
    assert [g["radius"] for g in optimizer.param_groups] == [2.0, 3.0]


def test_a_momentum_is_saved_alone():
    layers = nn.Sequential(*(nn.Linear(64, 64) for _ in range(20)))
    optimizer = ClippedScion(param_groups(layers), rho=5.0)
    layers(torch.randn(2, 64)).sum().backward()
    optimizer.step()
    file = io.BytesIO()
    torch.save(optimizer.state[layers[5].weight]["momentum"], file)
    assert 64 * 64 * 4 < file.tell() < 64 * 64 * 4 + 4096
    momentum = optimizer.state[layers[5].weight]["momentum"].clone()
    optimizer.step()
    expected = torch.lerp(momentum, layers[5].weight.grad, 0.1)
    assert torch.allclose(optimizer.state[layers[5].weight]["momentum"], expected)


def test_a_plan_is_copied_and_pickled_without_its_model():
    model = network(2)
    plan = param_groups(model)
    assert plan.model() is model
    for twin in (copy.deepcopy(plan), pickle.loads(pickle.dumps(plan)), copy.copy(plan)):
        assert str(twin) == str(plan)
        assert [g["norm"] for g in twin] == [g["norm"] for g in plan]
