"""Steps of their own for some parameters, and one polar factor for all."""

import pytest
import torch
from torch import nn

from normball import ClippedScion
from normball.groups import param_groups
from normball.norms import Spectral
from normball.polar import SVD, Auto, Nonic
from tests.groups.models import mlp


def test_steps_of_their_own():
    """As if written into the groups by hand; the rest keeps that of the optimizer."""
    model, other = mlp(), mlp()
    other.load_state_dict(model.state_dict())
    own = {"2.*": {"lr": 0.3, "radius": 2}, "*.weight": {"alpha": 0.7}, "2.weight": {"lr": 0.4}}
    plan = param_groups(model, overrides=own)
    assert plan.rows[4].rule == "override '2.weight', lr=0.4"
    plain = param_groups(other, overrides={"2.*": {"radius": 2}})
    apart = [
        {**group, "params": [pair]}
        | ({"alpha": 0.7} if pair[0].endswith("weight") else {})
        | ({"lr": 0.3} if pair[0] == "2.bias" else {})
        | ({"lr": 0.4} if pair[0] == "2.weight" else {})
        for group in plain
        for pair in group["params"]
    ]
    ours, theirs = (ClippedScion(groups, lr=0.1, rho=0.5, alpha=0.2) for groups in (plan, apart))
    x = torch.randn(5, 3)
    for optimizer, one in ((ours, model), (theirs, other)):
        for _ in range(3):
            optimizer.zero_grad()
            one(x).square().sum().backward()
            optimizer.step()
    for p, q in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.allclose(p, q, rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match=r"alpha=1\.5"):
        ClippedScion(param_groups(model, overrides={"*": {"alpha": 1.5}}), lr=0.1, rho=0.5)


def test_a_polar_factor_for_all_that_rules_choose():
    """Alone, in blocks, transposed, and both; whatever else there is stays."""
    model = nn.ModuleList(
        [
            nn.Embedding(7, 4),
            nn.Conv2d(4, 8, 3, groups=2),
            nn.ConvTranspose2d(4, 4, 3, groups=2),
            nn.MultiheadAttention(8, 2),
            nn.LSTM(3, 4),
            *mlp(),
        ]
    )
    plain, forced = param_groups(model), param_groups(model, polar=Nonic(3))
    changed = [repr(row.norm).replace(repr(Auto()), repr(Nonic(3))) for row in plain.rows]
    assert [repr(row.norm) for row in forced.rows] == changed
    assert any("Nonic" in text for text in changed)


def test_a_norm_that_is_stated_keeps_its_polar_factor():
    own = {"0.weight": {"norm": Spectral(polar=SVD())}, "2.weight": "hidden"}
    rows = {r.name: r.norm for r in param_groups(mlp(), polar=Nonic(), overrides=own).rows}
    assert rows["0.weight"] == Spectral(polar=SVD())
    assert rows["2.weight"] == Spectral(polar=Nonic())
    with pytest.raises(TypeError, match=r"polar='nonic' must be an object of normball\.polar"):
        param_groups(mlp(), polar="nonic")
