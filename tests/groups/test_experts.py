"""Experts, routers, state spaces: what their rules make of them, against SVDs of every map."""

import pytest
import torch
from torch import nn

from normball.groups import param_groups
from normball.norms import RMS, Column, Norm, Spectral, Transposed

EXPERTS, WIDTH, INNER = 3, 6, 5


class Experts(nn.Module):
    """A stack per projection, with the statements on its layout that transformers' have."""

    def __init__(self, is_transposed: bool, is_concatenated: bool = True, gate: bool = True):
        super().__init__()
        self.is_transposed, self.is_concatenated = is_transposed, is_concatenated
        up = (EXPERTS, WIDTH, (2 if gate else 1) * INNER)
        down = (EXPERTS, INNER, WIDTH)
        if not is_transposed:
            up, down = (EXPERTS, up[2], up[1]), (EXPERTS, down[2], down[1])
        name = "gate_up_proj" if gate else "up_proj"
        self.register_parameter(name, nn.Parameter(torch.randn(up)))
        self.register_parameter(f"{name}_bias", nn.Parameter(torch.randn(EXPERTS, 2 * INNER)))
        self.down_proj = nn.Parameter(torch.randn(down))


class TopKRouter(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(EXPERTS, WIDTH))


class Mixer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.A_log = nn.Parameter(torch.randn(6, 4))
        self.D = nn.Parameter(torch.randn(6))


def norms_of(model: nn.Module) -> dict[str, tuple[str, Norm, float]]:
    return {row.name: (row.role, row.norm, row.radius) for row in param_groups(model).rows}


def by_hand(maps: list[torch.Tensor]) -> tuple[list[torch.Tensor], float]:
    """Return the minimiser of every map `(out, in)` and the sum of their dual norms."""
    steps, total = [], 0.0
    for d in maps:
        u, sigma, v = torch.linalg.svd(d, full_matrices=False)
        scale = (d.shape[0] / d.shape[1]) ** 0.5
        steps.append(-scale * u @ v)
        total += scale * float(sigma.sum())
    return steps, total


@pytest.mark.parametrize("is_transposed", [False, True])
@pytest.mark.parametrize("name", ["gate_up_proj", "down_proj"])
def test_every_map_of_every_expert_has_a_ball_of_its_own(is_transposed, name):
    model = Experts(is_transposed).double()
    role, norm, radius = norms_of(model)[name]
    assert (role, radius) == ("hidden", 5.0)
    d = getattr(model, name).detach()
    lmo, dual = norm.lmo_and_dual(d)
    matrices = d.mT if is_transposed else d
    maps = [m for expert in matrices for m in expert.chunk(2 if name == "gate_up_proj" else 1)]
    steps, total = by_hand(maps)
    found = lmo.mT if is_transposed else lmo
    assert torch.allclose(found, torch.cat(steps).reshape(found.shape), atol=5e-3)
    assert float(dual) == pytest.approx(total, rel=3e-3)


@pytest.mark.parametrize("is_transposed", [False, True])
def test_interleaved_and_missing_gates_leave_one_map_per_expert(is_transposed):
    for model in (
        Experts(is_transposed, is_concatenated=False),
        Experts(is_transposed, gate=False),
    ):
        places = norms_of(model)
        expected = Transposed(Spectral(), dims=(1, 2)) if is_transposed else Spectral()
        for name, (role, norm, radius) in places.items():
            bias = "bias" in name
            assert (role, norm, radius) == (
                ("bias", RMS(), 0.25) if bias else ("hidden", expected, 5.0)
            )


def test_stacks_without_a_stated_layout_are_refused():
    model = Experts(False)
    del model.is_transposed
    with pytest.raises(ValueError, match="no rule places 2 of the parameters"):
        param_groups(model)


def test_a_router_is_inside_and_never_the_last_layer():
    model = nn.ModuleDict({"embed": nn.Embedding(4, WIDTH), "gate": TopKRouter()})
    model["experts"] = Experts(False)
    places = norms_of(model)
    assert places["gate.weight"] == ("hidden", Spectral(), 5.0)
    assert "output" not in {role for role, _, _ in places.values()}
    model["head"] = nn.Linear(WIDTH, 4)
    assert norms_of(model)["head.weight"][0] == "output"


def test_rates_of_a_state_space_are_no_matrix():
    places = norms_of(nn.Sequential(nn.Linear(3, 6), Mixer(), nn.Linear(6, 2)))
    assert places["1.A_log"] == places["1.D"] == ("vector", RMS(), 1.0)


def test_learned_inputs_and_relative_biases_by_name():
    model = nn.Module()
    model.latents = nn.Parameter(torch.randn(4, 6))
    model.attention_biases = nn.Parameter(torch.randn(2, 9))
    assert norms_of(model) == {
        "latents": ("embedding", Column(transposed=True), 1.0),
        "attention_biases": ("bias", RMS(), 0.25),
    }
