"""Reparametrised layers, ensembles, adapters of peft, and weights that start at 0."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize

from normball import ClippedScion, Scion, param_groups
from normball.norms import RMS, Euclidean, Members, Spectral
from tests.groups.models import Symmetric


def steps(model, optimizer, count, width):
    for step in range(count):
        x = torch.randn(
            8, width, generator=torch.Generator().manual_seed(step), dtype=torch.float64
        )
        optimizer.zero_grad()
        (model(x) - 1).square().mean().backward()
        optimizer.step()


@pytest.mark.parametrize("shape", [(6, 4), (4, 6), (5, 5)], ids=str)
@pytest.mark.parametrize("way", ["matrix_exp", "cayley", "householder"])
@pytest.mark.parametrize("trivial", [True, False])
def test_an_orthogonal_layer_stays_orthogonal_and_trains(shape, way, trivial):
    torch.manual_seed(0)
    layer = nn.Linear(shape[1], shape[0], bias=False).double()
    if way != "householder" and shape[0] != shape[1] and not trivial:
        pytest.skip("torch: these maps need a square matrix or the trivialization")
    parametrizations.orthogonal(layer, orthogonal_map=way, use_trivialization=trivial)
    start = layer.weight.detach().clone()
    plan = param_groups(layer)
    assert {row.norm for row in plan.rows} == {Euclidean()}
    steps(layer, ClippedScion(plan, lr=0.02, rho=0.1), 10, shape[1])
    w = layer.weight.detach()
    small = w @ w.mT if shape[0] <= shape[1] else w.mT @ w
    assert torch.allclose(small, torch.eye(min(shape), dtype=torch.float64), atol=1e-10)
    assert float((w - start).norm()) > 1e-3


@pytest.mark.parametrize("make", ["weight_norm", "spectral_norm", "own"])
def test_other_parametrisations_keep_the_place_of_their_weight(make):
    layer = nn.Linear(4, 4, bias=False).double()
    if make == "own":
        parametrize.register_parametrization(layer, "weight", Symmetric())
    else:
        getattr(parametrizations, make)(layer)
    model = nn.Sequential(nn.Linear(4, 4), layer, nn.Linear(4, 2)).double()
    roles = {row.name: (row.role, row.norm, row.radius) for row in param_groups(model).rows}
    original = "1.parametrizations.weight.original"
    if make == "weight_norm":
        assert roles[original + "0"] == ("vector", RMS(), 1.0)
        assert roles[original + "1"] == ("hidden", Spectral(), 5.0)
    else:
        assert roles[original] == ("hidden", Spectral(), 5.0)
    steps(model, ClippedScion(param_groups(model), lr=0.02, rho=0.1), 3, 4)
    if make == "own":
        assert torch.equal(layer.weight, layer.weight.mT)


def test_members_of_an_ensemble_move_as_alone():
    def member(seed):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.Linear(8, 2)).double()

    models = [member(seed) for seed in range(3)]
    params, buffers = torch.func.stack_module_state(copy.deepcopy(models))
    plan = param_groups(models[0]).stacked(params)
    assert [row.norm for row in plan.rows] == [
        Members(row.norm) for row in param_groups(models[0]).rows
    ]
    together = Scion(plan, 0.02)
    base = copy.deepcopy(models[0]).to("meta")
    for model in models:
        steps(model, Scion(param_groups(model), 0.02), 4, 4)
    call = torch.func.vmap(
        lambda p, b, x: torch.func.functional_call(base, (p, b), (x,)), in_dims=(0, 0, None)
    )
    for step in range(4):
        x = torch.randn(8, 4, generator=torch.Generator().manual_seed(step), dtype=torch.float64)
        together.zero_grad()
        (call(params, buffers, x) - 1).square().mean((1, 2)).sum().backward()
        together.step()
    for i, model in enumerate(models):
        for name, p in model.named_parameters():
            assert torch.allclose(params[name][i], p, rtol=1e-8, atol=1e-10), name


def test_an_ensemble_of_another_model_is_refused():
    models = [nn.Linear(4, 2) for _ in range(2)]
    params, _ = torch.func.stack_module_state(models)
    with pytest.raises(ValueError, match=r"weight of shape \(2, 2, 4\): the plan has \(3, 4\)"):
        param_groups(nn.Linear(4, 3)).stacked(params)
    with pytest.raises(ValueError, match="unknown"):
        param_groups(nn.Sequential(nn.Linear(4, 2))).stacked(params)


@pytest.mark.parametrize("kind", ["LoHa", "LoKr", "OFT"])
def test_adapters_of_peft_train(kind):
    peft = pytest.importorskip("peft")

    class Base(nn.Module):
        def __init__(self):
            super().__init__()
            self.q_proj, self.head = nn.Linear(16, 16), nn.Linear(16, 4)

        def forward(self, x):
            return self.head(self.q_proj(x).relu())

    config = {
        "LoHa": lambda: peft.LoHaConfig(r=2, target_modules=["q_proj"]),
        "LoKr": lambda: peft.LoKrConfig(r=2, target_modules=["q_proj"]),
        "OFT": lambda: peft.OFTConfig(oft_block_size=4, target_modules=["q_proj"]),
    }[kind]()
    torch.manual_seed(0)
    model = peft.get_peft_model(Base(), config)
    plan = param_groups(model)
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    rules = {row.name: row.rule for row in plan.rows if row.name in trained}
    assert trained == set(rules)
    assert trained
    assert all("adapter" in rule or "rotations" in rule for rule in rules.values())
    optimizer = ClippedScion(plan)
    x, target = torch.randn(32, 16), torch.randn(32, 4)
    losses = []
    for _ in range(40):
        loss = (model(x) - target).square().mean()
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[-1] < 0.97 * losses[0]
