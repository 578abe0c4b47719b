"""The benchmark of small networks runs, and a step makes few operations."""

import torch

from benchmarks import small
from tests import needs


@needs.muon
def test_the_rows_of_one_network(monkeypatch):
    monkeypatch.setattr(small, "NETWORKS", {"CNN": small.small_cnn})
    rows = {row["name"]: row for row in small.networks(2)}
    assert set(rows) == {*small.METHODS, "normball, factors alone"}
    assert rows[small.REFERENCE]["ratio"] == 1
    model = small.small_cnn()
    for row in rows.values():
        assert row["us"] > 0
        assert row["parameters"] == sum(p.numel() for p in model.parameters())
    # A count, and no time. Without numbers in Python there were 378.
    assert rows["normball, rho given"]["operations"] < 220


def test_the_matrices_of_a_step_are_those_of_its_hidden_layers():
    found = [tuple(x.shape) for x in small._Factors(small.small_cnn).matrices]
    assert sorted(found) == [(16, 9), (32, 144)]


def test_calls_are_counted():
    x = torch.ones(3)
    with small.Calls() as calls:
        (x + x).mul_(2)
    assert calls.count == 2
