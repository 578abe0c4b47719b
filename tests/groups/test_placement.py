"""Every rule on a real module, against a placement written by hand; and one step of training."""

import copy

import pytest
import torch
from torch import nn

from normball import ClippedScion
from normball.groups import Plan, Row, param_groups
from normball.norms import Blocks, Column, Sign, Spectral, SpectralConv
from tests.groups.cases import CASES
from tests.groups.models import Language, Vision
from tests.groups.places import HIDDEN, OUTPUT, Case, on

cases = pytest.mark.parametrize("case", CASES, ids=str)


def placed(plan: Plan) -> dict[str, tuple]:
    return {name: (group["norm"], group["radius"]) for group in plan for name, _ in group["params"]}


@cases
def test_placement(case: Case):
    model = case.build()
    plan = param_groups(model)
    parameters = dict(model.named_parameters())
    trained = [row for row in plan.rows if parameters[row.name].requires_grad]
    rows = {row.name: (row.role, row.norm, row.radius) for row in trained}
    assert rows == case.expected
    assert placed(plan) == {row.name: (row.norm, row.radius) for row in plan.rows}
    assert [row.name for row in plan.rows] == list(parameters)
    for row in plan.rows:
        assert row.shape == parameters[row.name].shape
        assert row.rule.endswith(", frozen") == (not parameters[row.name].requires_grad)
    for group in plan:
        assert list(group) == ["params", "norm", "radius"]
        assert all(p is parameters[name] for name, p in group["params"])
    keys = [(row.role, row.norm, row.radius) for row in plan.rows]
    first_seen = list(dict.fromkeys(keys))
    assert [(g["norm"], g["radius"]) for g in plan] == [key[1:] for key in first_seen]


# torch says that it takes its plain kernel.
@pytest.mark.filterwarnings("ignore:LSTM with projections")
@cases
def test_one_step_stays_within_its_radius(case: Case):
    model = case.build()
    optimizer = ClippedScion(param_groups(model), lr=0.01, rho=1.0)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    case.run(model).square().sum().backward()
    optimizer.step()
    moved = 0
    names = [name for group in optimizer.param_groups for name in group["param_names"]]
    assert sorted(names) == sorted(before)
    for name, p in model.named_parameters():
        step = p.detach() - before[name]
        if name not in case.expected or p.grad is None:
            assert not step.any()
            continue
        _, norm, radius = case.expected[name]
        assert float(norm.norm(step)) <= 0.01 * radius * 1.001
        moved += bool(step.any())
    assert moved > 0


def test_a_full_step_is_the_radius():
    """The threshold far below the dual norm: every layer goes exactly its lr times its radius."""
    model = Vision()
    optimizer = ClippedScion(param_groups(model), lr=0.01, rho=1e-9)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    on(2, 3, 4, 4)(model).square().sum().backward()
    optimizer.step()
    for group in optimizer.param_groups:
        for name, p in zip(group["param_names"], group["params"], strict=True):
            if p.grad is not None and float(p.grad.norm()) > 1e-6:
                step = float(group["norm"].norm(p.detach() - before[name]))
                assert step == pytest.approx(0.01 * group["radius"], rel=2e-3), name


# torch cannot make an orthogonal parametrisation there.
@pytest.mark.parametrize("case", [c for c in CASES if str(c) != "other parametrisations"], ids=str)
def test_a_model_on_the_meta_device_gives_the_same_plan(case: Case):
    with torch.device("meta"):
        model = case.build()
    assert param_groups(model).rows == param_groups(case.build()).rows


class Wrapper(nn.Module):
    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module


def compiled(module: nn.Module) -> nn.Module:
    return torch.compile(module, backend="eager")


@pytest.mark.parametrize(
    "wrap",
    [compiled, Wrapper, nn.DataParallel, lambda m: compiled(Wrapper(compiled(m)))],
    ids=["compile", "wrapper", "DataParallel", "nested"],
)
def test_wrapped_models_give_the_names_of_the_model_inside(wrap):
    model = Language(tied=True)
    rows = param_groups(model).rows
    assert param_groups(wrap(model)).rows == rows
    model.block = wrap(model.block)
    assert param_groups(model).rows == rows


def test_a_model_that_calls_its_own_modules_like_wrappers_keeps_all_names_apart():
    model = Wrapper(nn.Linear(3, 3))
    model.weight = nn.Parameter(torch.ones(3))
    names = [row.name for row in param_groups(model).rows]
    assert names == ["weight", "module.weight", "module.bias"]


def test_shared_parameters_are_placed_once():
    layer = nn.Linear(3, 3)
    model = nn.Sequential(nn.Linear(3, 3), layer, nn.ReLU(), layer, nn.Linear(3, 3))
    model[4].bias = model[0].bias
    plan = param_groups(model)
    assert [row.name for row in plan.rows] == [n for n, _ in model.named_parameters()]
    rows = {row.name: (row.role, row.norm, row.radius) for row in plan.rows}
    assert rows["1.weight"] == HIDDEN
    assert sum(len(group["params"]) for group in plan) == 5


def test_layers_tied_to_each_other():
    model = nn.Sequential(*(nn.Linear(3, 3, bias=False) for _ in range(3)))
    model[2].weight = model[0].weight
    rows = {row.name: (row.role, row.norm, row.radius) for row in param_groups(model).rows}
    assert rows == {"0.weight": OUTPUT, "1.weight": HIDDEN}


def test_a_tied_head_leaves_no_other_layer_as_the_last():
    model = nn.Module()
    model.wte = nn.Embedding(5, 3)
    model.head = nn.Linear(3, 5, bias=False)
    model.head.weight = model.wte.weight
    model.body = nn.Linear(3, 3, bias=False)
    plan = param_groups(model)
    assert [(r.name, r.role) for r in plan.rows] == [
        ("wte.weight", "output"),
        ("body.weight", "hidden"),
    ]
    assert plan.rows[0].rule == "tied embedding and head"


def test_frozen_parameters_keep_their_places_and_move_no_role():
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 4), nn.Linear(4, 2))
    expected = placed(param_groups(model))
    model[0].requires_grad_(False)
    model[2].weight.requires_grad_(False)
    plan = param_groups(model)
    assert placed(plan) == expected
    rules = [row.rule for row in plan.rows]
    assert rules[:2] == ["first layer, linear, frozen", "bias, frozen"]
    assert rules[4] == "last layer, linear, frozen"
    assert [plan.rows[i].role for i in (0, 2, 4)] == ["input", "hidden", "output"]


def test_frozen_weights_of_8_bits_are_left_out():
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    for dtype in (torch.uint8, torch.float8_e4m3fn):
        model[0].weight = nn.Parameter(torch.zeros(4, 3).to(dtype), requires_grad=False)
        plan = param_groups(model)
        row = Row("0.weight", torch.Size((4, 3)), "frozen", None, None, rule="requires_grad=False")
        assert plan.rows[0] == row
        assert "0.weight" not in placed(plan)


def test_radii():
    plan = param_groups(Language(tied=False), radius=50, input_radius=2, output_radius=3000)
    radii = {row.role: row.radius for row in plan.rows}
    small = {"embedding": 2.0, "bias": 0.5, "vector": 2.0}
    assert radii == small | {"hidden": 50.0, "output": 3000.0}


def test_groups_are_one_per_role_norm_and_radius():
    """Vectors and hidden layers never share a group, whatever their norms."""
    model = nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 5))
    plan = param_groups(model, overrides={"1.weight": {"radius": 7}})
    assert [[name for name, _ in group["params"]] for group in plan] == [
        ["0.weight"],
        ["1.weight"],
        ["1.bias", "2.bias", "3.bias"],
        ["2.weight"],
        ["3.weight"],
    ]
    assert [group["norm"] for group in plan][:2] == [Column(transposed=True), Spectral()]


def test_a_plan_serves_several_optimizers_and_copies():
    plan = param_groups(nn.Linear(3, 2))
    first = ClippedScion(plan, lr=0.5, rho=1.0)
    second = ClippedScion(plan, lr=0.25, rho=1.0)
    assert [group["lr"] for group in (*first.param_groups, *second.param_groups)] == [
        0.5,
        0.5,
        0.25,
        0.25,
    ]
    assert copy.copy(plan).rows == plan.rows
    assert str(copy.copy(plan)) == str(plan)


def test_torchs_own_transformer():
    model = nn.Transformer(8, 2, 1, 1, 16, batch_first=True)
    rows = {row.name: row for row in param_groups(model).rows}
    assert rows["encoder.layers.0.self_attn.in_proj_weight"].norm == Blocks(Spectral(), 3)
    assert rows["encoder.layers.0.linear1.weight"].role == "hidden"
    assert rows["decoder.layers.0.linear2.weight"].role == "output"
    assert {row.norm for row in rows.values() if row.role == "vector"} == {
        rows["encoder.norm.weight"].norm
    }


def test_the_last_layer_can_be_a_grouped_kernel():
    """One Sign over the whole kernel is the largest over its groups: no blocks are needed."""
    kernel = torch.randn(6, 2, 3)
    assert torch.equal(Sign().lmo(kernel), Blocks(Sign(), 3).lmo(kernel))
    assert torch.equal(Sign().norm(kernel), Blocks(Sign(), 3).norm(kernel))
    assert SpectralConv() != Blocks(SpectralConv(), 1)
