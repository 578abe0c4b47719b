"""Parts of a role's radius: tables by their rows, queries and keys, second factors of a pair."""

import math

import pytest
import torch
from torch import nn

from normball import param_groups
from normball.norms import Spectral


def radii(model: nn.Module, **given: float) -> dict[str, float | None]:
    return {row.name: row.radius for row in param_groups(model, **given).rows}


@pytest.mark.parametrize(
    ("rows", "radius"), [(2, 1.0), (64, 1.0), (144, 1.5), (1024, 4.0), (50257, 4.0)]
)
def test_a_table_of_many_rows_takes_longer_steps(rows: int, radius: float):
    with torch.device("meta"):
        model = nn.Sequential(nn.Embedding(rows, 4), nn.Linear(4, 4), nn.Linear(4, 2))
    assert radii(model)["0.weight"] == radius
    assert radii(model, input_radius=3)["0.weight"] == 3 * radius


def test_positions_and_tied_heads_keep_the_radius_of_their_role():
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.tokens = nn.Embedding(1024, 4)
            self.position_embeddings = nn.Embedding(1024, 4)
            self.inside = nn.Linear(4, 4)
            self.head = nn.Linear(4, 1024, bias=False)
            self.head.weight = self.tokens.weight

    found = radii(Tied())
    assert found["tokens.weight"] == 32
    assert found["position_embeddings.weight"] == 1


@pytest.mark.parametrize(
    ("query", "key", "value"),
    [("query", "key", "value"), ("q_proj", "k_proj", "v_proj"), ("to_q", "to_k", "to_v")],
)
def test_queries_and_keys_share_a_step(query: str, key: str, value: str):
    parts = {name: nn.Linear(4, 4) for name in (query, key, value)}
    model = nn.Sequential(nn.Linear(3, 4), nn.ModuleDict(parts), nn.Linear(4, 2))
    found = radii(model, radius=8)
    assert found[f"1.{query}.weight"] == found[f"1.{key}.weight"] == 4
    assert found[f"1.{value}.weight"] == 8
    assert found[f"1.{query}.bias"] == 0.25


def test_a_score_moves_no_more_than_the_values_to_first_order():
    """With queries and keys of equal size, the largest change of `q k` is that of one full step."""
    model = nn.ModuleDict({name: nn.Linear(6, 6, bias=False) for name in ("query", "key", "value")})
    model = nn.Sequential(nn.Linear(6, 6, bias=False), model, nn.Linear(6, 2, bias=False)).double()
    nn.init.orthogonal_(model[1]["query"].weight)
    nn.init.orthogonal_(model[1]["key"].weight)
    found = radii(model)
    query, key = (model[1][name].weight.detach() for name in ("query", "key"))
    t = 1e-4
    steps = [t * found[f"1.{name}.weight"] * w for name, w in (("query", query), ("key", key))]
    change = (query + steps[0]).mT @ (key + steps[1]) - query.mT @ key
    whole = t * found["1.value.weight"]
    assert float(torch.linalg.matrix_norm(change, 2)) == pytest.approx(whole, rel=1e-3)


@pytest.mark.parametrize("width", [16, 256])
def test_the_second_factor_of_a_pair_moves_the_output_like_a_layer(width: int):
    """For a first factor whose rows are orthonormal, as long as a random one keeps its inputs."""
    rank = 4
    pair = nn.ModuleDict(
        {
            "lora_A": nn.Linear(width, rank, bias=False),
            "lora_B": nn.Linear(rank, width, bias=False),
        }
    ).double()
    found = radii(nn.Sequential(pair))
    first = torch.linalg.qr(torch.randn(width, rank, dtype=torch.float64)).Q.mT
    step = Spectral().lmo(torch.randn(width, rank, dtype=torch.float64))
    moved = found["0.lora_B.weight"] * step @ first
    assert float(Spectral().norm(moved)) == pytest.approx(5.0)
    assert found["0.lora_B.weight"] == pytest.approx(5 * math.sqrt(rank / width))
