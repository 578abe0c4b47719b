"""What optimizers with a norm for every layer owe on top."""

import pytest
import torch
from torch import nn

from normball.norms import Sign, Spectral
from tests.optim.network import build, groups, train
from tests.optim.optimizers import LAYERED

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*starts outside its ball"),
    pytest.mark.parametrize("row", LAYERED, ids=str),
]


def test_group_dual_norms_by_hand(row):
    model = build()
    optimizer = row(groups(model))
    train(model, optimizer, 4)
    for index, group in enumerate(optimizer.param_groups):
        by_hand = sum(
            group["radius"] * float(group["norm"].dual_norm(row.estimate(optimizer, p)))
            for p in group["params"]
        )
        got = optimizer.metrics()["group_dual_norms"][index]
        assert float(got) == pytest.approx(by_hand)


BAD_GROUPS = [
    ({"raduis": 1.0}, TypeError, "'raduis' .* did you mean 'radius'"),
    ({"radius": 0.0}, ValueError, r"radius=0\.0 must lie in \(0, inf\)"),
    ({"radius": float("inf")}, ValueError, "radius=inf"),
    ({"norm": "spectral"}, TypeError, r"norm='spectral' .* did you mean Spectral\(\)"),
    ({"norm": Sign}, TypeError, r"did you mean Sign\(\)"),
    ({"norm": 3}, TypeError, "known norms: .*ByShape"),
    ({"norm": Spectral()}, ValueError, r"parameter 0 of shape \(2,\): .* needs a matrix"),
]


@pytest.mark.parametrize(("group", "error", "match"), BAD_GROUPS, ids=str)
def test_bad_groups(row, group, error, match):
    with pytest.raises(error, match=match):
        row([{"params": [nn.Parameter(torch.ones(2))], **group}])


def test_repr_names_the_settings(row):
    text = repr(row(groups(build())))
    assert "Spectral" in text
    assert "radius: 20.0" in text


def test_a_norm_put_in_later_counts_from_then_on(row):
    model, other = build(), build()
    optimizer, expected = row(groups(model)), row(groups(other))
    for o in (optimizer, expected):
        train(model if o is optimizer else other, o, 2)
    optimizer.param_groups[3]["norm"] = Spectral()
    state = expected.state_dict()
    state["param_groups"][3]["norm"] = repr(Spectral())
    made = groups(other)
    made[3]["norm"] = Spectral()
    again = row(made)
    again.load_state_dict(state)
    train(model, optimizer, 2, start=2)
    train(other, again, 2, start=2)
    for p, q in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(p, q)
