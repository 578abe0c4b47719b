"""Starts on the sphere, and back inside the ball."""

import math

import pytest
import torch
from torch import nn

from normball import S3CG, ClippedScion, init_, param_groups, project_
from normball.norms import RMS, Euclidean, Spectral


def model():
    torch.manual_seed(3)
    return nn.Sequential(
        nn.Embedding(9, 6),
        nn.Conv1d(6, 8, 3),
        nn.Linear(8, 8),
        nn.LayerNorm(8),
        nn.Linear(8, 5),
    ).double()


def test_init_puts_every_weight_on_its_sphere():
    net = model()
    gain = net[3].weight.detach().clone()
    plan = param_groups(net)
    report = init_(plan)
    kernel = net[1].weight.detach().flatten(1)
    # radius 5, scale sqrt(8 / 6) / 3, semi-orthogonal
    scale = 5 * math.sqrt(8 / 6) / 3
    assert torch.allclose(kernel @ kernel.T, scale**2 * torch.eye(8, dtype=kernel.dtype))
    linear = net[2].weight.detach()
    assert torch.allclose(linear @ linear.T, 25 * torch.eye(8, dtype=linear.dtype))
    assert torch.allclose(net[4].weight.abs(), torch.tensor(32 / 8, dtype=torch.float64))
    assert torch.allclose(net[0].weight.norm(dim=1) / math.sqrt(6), torch.ones(9).double())
    assert torch.equal(net[3].weight, gain)
    for layer in (net[1], net[2], net[3], net[4]):
        assert not layer.bias.any()
    done = {c.name: (c.done, c.after) for c in report}
    assert done["3.weight"][0] == "kept"
    assert done["1.bias"] == ("zero", 0)
    for name in ("0.weight", "1.weight", "2.weight", "4.weight"):
        assert done[name][0] == "on the sphere"
        assert done[name][1] == pytest.approx(1)
    assert len(report) == 9
    assert "4.weight  (5, 8)     32" in str(report)


def test_init_is_repeatable_and_can_start_the_output_at_zero():
    nets = [model(), model()]
    for net in nets:
        init_(net, generator=torch.Generator().manual_seed(5), zero_output=True)
    for a, b in zip(nets[0].parameters(), nets[1].parameters(), strict=True):
        assert torch.equal(a, b)
    assert not nets[0][4].weight.any()


def test_rows_of_a_table_that_are_zero_stay_zero_and_all_others_get_length_one():
    table = nn.Embedding(5, 4, padding_idx=2)
    with torch.no_grad():
        table.weight[3] = -1.0
    init_(table)
    lengths = table.weight.detach().norm(dim=1) / 2  # sqrt(4): the root mean square
    assert torch.allclose(lengths, torch.tensor([1.0, 1.0, 0.0, 1.0, 1.0]))


def test_a_matrix_that_is_zero_stays_zero_only_as_half_of_a_low_rank_pair():
    pair = nn.ModuleDict({"lora_A": nn.Linear(4, 2, bias=False)})
    pair["lora_B"] = nn.Linear(2, 4, bias=False)
    net = nn.ModuleDict({"pair": pair, "hidden": nn.Linear(4, 4), "head": nn.Linear(4, 3)}).double()
    nn.init.zeros_(pair["lora_B"].weight)
    nn.init.zeros_(net["hidden"].weight)
    done = {change.name: change.done for change in init_(net)}
    assert done["pair.lora_B.weight"] == "kept at zero"
    assert not pair["lora_B"].weight.any()
    assert done["pair.lora_A.weight"] == done["hidden.weight"] == "on the sphere"
    assert torch.linalg.svdvals(net["hidden"].weight.detach()).min() > 0


@pytest.mark.parametrize("shape", [(2, 3), (2, 2, 3)], ids=str)
def test_only_vectors_count_as_gains_and_biases(shape):
    weight = nn.Parameter(torch.zeros(shape))
    init_([{"params": [("bias", weight)], "norm": RMS(), "radius": 3.0}])
    assert float(weight.detach().square().mean().sqrt()) == pytest.approx(3)


def test_what_is_frozen_is_passed_over():
    net = model()
    net[2].requires_grad_(False)
    frozen = net[2].weight.detach().clone()
    free = {name for name, p in net.named_parameters() if p.requires_grad}
    assert {change.name for change in init_(net)} == free
    assert torch.equal(net[2].weight, frozen)


def test_project_scales_what_is_outside_and_nothing_else():
    net = model()
    optimizer = ClippedScion(param_groups(net), 0.1, rho=1.0, constrained=True)
    with torch.no_grad():
        net[0].weight.mul_(0.1)
        net[2].weight.mul_(100)
        net[4].bias.fill_(7.0)
    before = {n: p.detach().clone() for n, p in net.named_parameters()}
    report = project_(optimizer)
    assert {c.name for c in report if c.done == "scaled"} == {"2.weight", "4.bias"}
    sigma = torch.linalg.svdvals(before["2.weight"])[0]
    change = next(c for c in report if c.name == "2.weight")
    assert (change.before, change.after) == (pytest.approx(float(sigma) / 5), pytest.approx(1))
    assert torch.allclose(net[2].weight, before["2.weight"] * 5 / sigma)
    assert torch.allclose(net[4].bias, torch.tensor(0.25, dtype=torch.float64))
    for name, p in net.named_parameters():
        if name not in ("2.weight", "4.bias"):
            assert torch.equal(p, before[name])
    for p in net.parameters():
        p.grad = torch.ones_like(p)
    optimizer.step()  # A warning would be an error.


def test_refusals():
    net = model()
    with pytest.raises(TypeError, match=r"expected a model, .* got int"):
        init_(3)
    with pytest.raises(TypeError, match="group 0 is not a dict with 'params', 'norm'"):
        project_([{"params": list(net.parameters())}])
    before = net[4].weight.detach().clone()
    with pytest.raises(ValueError, match=r"parameter 1 of group 0: .* needs a matrix"):
        init_([{"params": [net[4].weight, net[4].bias], "norm": Spectral(), "radius": 1.0}])
    assert torch.equal(before, net[4].weight)
    with torch.no_grad():
        net[4].bias[0] = float("nan")
    with pytest.raises(ValueError, match=r"^b of shape \(5,\) is not finite"):
        project_([{"params": [("b", net[4].bias)], "norm": RMS(), "radius": 1.0}])


@pytest.mark.parametrize("act", [init_, project_])
def test_one_ball_for_all_is_refused(act):
    """Each on the sphere, both together would be at sqrt(2) times the radius."""
    params = [nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(4))]
    options = {"gamma": 0.1, "rho": 1.0, "beta": 1.0, "norm": Euclidean()}
    with pytest.raises(TypeError, match="S3CG has one ball for its 2 parameters together"):
        act(S3CG(params, **options))
    assert [p.sum().item() for p in params] == [3, 4]
    act(S3CG(params[:1], **options))
    assert params[0].norm().item() == pytest.approx(1)
