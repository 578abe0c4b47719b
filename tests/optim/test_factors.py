"""A hundred steps with each factor, beside the exact SVD in float64 on the same gradients."""

import pytest
import torch

from normball import ClippedScion
from normball.polar import Auto, Eigh, Half, Nonic, PolarExpress
from tests.optim.network import build, groups, loss

# Factor, how far apart the weights may be as a share of the way they went, and the dual norms.
FACTORS = [
    (Auto(), 0.02, 1e-3),
    (Eigh(), 0.02, 1e-3),
    (Nonic(), 0.02, 1e-3),
    (PolarExpress(), 0.02, 1e-3),
    (Half(), 0.02, 3e-3),
]


@pytest.mark.parametrize(("polar", "far", "dual"), FACTORS, ids=str)
def test_a_hundred_steps(polar, far, dual):
    exact, single = build(torch.float64), build(torch.float32)
    start = [p.detach().clone() for p in exact.parameters()]
    with torch.no_grad():
        for p, q in zip(exact.parameters(), single.parameters(), strict=True):
            q.copy_(p)
    reference = ClippedScion(groups(exact), 0.01, rho=1.5)
    ours = ClippedScion(groups(single, polar), 0.01, rho=1.5)
    for step in range(100):
        reference.zero_grad()
        loss(exact, step).backward()
        for p, q in zip(exact.parameters(), single.parameters(), strict=True):
            q.grad = p.grad.float()
        reference.step()
        ours.step()
        found, wanted = (float(o.metrics()["dual_norm"]) for o in (ours, reference))
        assert found == pytest.approx(wanted, rel=dual)
    for p, q, x in zip(exact.parameters(), single.parameters(), start, strict=True):
        assert float((p - q).detach().norm()) < far * float((p - x).detach().norm())
