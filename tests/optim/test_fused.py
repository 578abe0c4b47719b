"""The step in one pass, as on a GPU: against the arithmetic of the CPU, and bit for bit if skipped.

torch's fused kernel runs on a CPU too, where the optimizers do not need it.
"""

import copy

import pytest
import torch
from torch import nn
from torch._subclasses import FakeTensorMode

from normball import ClippedScion, Scion, _numeric
from normball.norms import Sign, Spectral
from normball.optim import buckets
from tests.optim.network import bits, build, groups, loss, same, state_of, train

MAKES = [
    lambda g: ClippedScion(g, 0.02, rho=3.0),
    lambda g: ClippedScion(g, 0.02, rho="auto", average=0.1),
    lambda g: Scion(g, 0.02, nesterov=False),
    lambda g: Scion(g, 0.02, maximize=True, lazy=False),
    lambda g: ClippedScion(g, 0.02, rho=3.0, constrained=True),
]
every = pytest.mark.parametrize("make", MAKES, ids=range(len(MAKES)))


@pytest.fixture
def fused(monkeypatch):
    """Count the calls of the kernel, which is taken for the CPU too."""
    calls = []
    genuine = torch._fused_sgd_

    def counted(*args, **kwargs):
        calls.append(len(args[0]))
        return genuine(*args, **kwargs)

    monkeypatch.setattr(torch, "_fused_sgd_", counted)
    return lambda: monkeypatch.setattr(_numeric, "_FUSED", {"cpu"}) or calls


@every
def test_it_is_the_step_of_the_cpu(make, fused):
    plain, other = build(torch.float32), build(torch.float32)
    expected = train(plain, make(groups(plain)), 12)
    calls = fused()
    found = train(other, make(groups(other)), 12)
    assert calls
    for p, q in zip(plain.parameters(), other.parameters(), strict=True):
        # A step rounds sums of a few numbers; its direction can magnify that on the way.
        assert torch.allclose(p, q, rtol=1e-4, atol=1e-5)
    for a, b in zip(expected, found, strict=True):
        assert torch.allclose(a["step_factor"], b["step_factor"], rtol=1e-3)


@every
def test_a_skipped_step_keeps_every_bit(make, fused):
    model = build(torch.float32)
    with torch.no_grad():
        model.head.weight[0].fill_(-0.0)
    optimizer = make(groups(model))
    calls = fused()
    train(model, optimizer, 1)
    with torch.no_grad():
        model.head.weight[1].fill_(-0.0)
    weights, momentum, so_far = bits(model), copy.deepcopy(state_of(optimizer)), len(calls)
    optimizer.zero_grad()
    loss(model, 3).backward()
    model.conv1.weight.grad[0, 0, 0] = float("nan")
    optimizer.step()
    assert len(calls) > so_far
    assert same(weights, bits(model))
    assert same(momentum, state_of(optimizer))
    assert float(optimizer.metrics()["skipped"]) == 1


def test_what_has_no_kernel_takes_the_other_way(fused):
    calls = fused()
    true = torch.tensor(True)
    x = torch.ones(4)
    for xs, ys in (
        ([x.double()], [x.double()]),
        ([x], [x.bfloat16()]),
        ([torch.ones(4, 2).mT], [torch.ones(2, 4)]),
        ([x, torch.ones(4, 2)], [x, torch.ones(2, 4).mT]),
    ):
        before = [y.clone() for y in xs]
        assert not _numeric.step_where_(xs, ys, 0.5, true, to=True)
        assert all(torch.equal(a, b) for a, b in zip(xs, before, strict=True))
    assert not calls
    assert _numeric.step_where_([x], [3 * x], torch.tensor(0.5, dtype=torch.float64), true, to=True)
    assert torch.equal(x, torch.full((4,), 2.0))
    assert _numeric.step_where_([x], [torch.ones(4)], 0.5, true, to=False)
    assert torch.equal(x, torch.full((4,), 2.5))
    assert not _numeric.step_where_([x], [x], 0.5, true.to("meta"), to=False)


@pytest.mark.parametrize(("most", "sizes"), [(2**25, [5]), (50, [2, 2, 1]), (1, [1] * 5)])
def test_stacks_have_a_limit(most, sizes, monkeypatch):
    """Each parameter moves as it would alone."""
    monkeypatch.setattr(buckets, "_MOST_TOGETHER", most)
    torch.manual_seed(0)
    start = [torch.randn(4, 6) for _ in range(5)]
    grads = [torch.randn(4, 6) for _ in range(5)]

    def stepped(params):
        optimizer = Scion([{"params": params, "norm": Spectral()}], 0.1)
        for p, g in zip(params, grads, strict=True):
            p.grad = g.clone()
        optimizer.step()
        return optimizer

    together = [nn.Parameter(x.clone()) for x in start]
    optimizer = stepped(together)
    assert [len(b.params) for b in optimizer._known.roster.buckets] == sizes
    for p, x, g in zip(together, start, grads, strict=True):
        lmo = Spectral().lmo(g)
        assert torch.allclose(p, x + 0.1 * lmo, atol=1e-6)


@pytest.mark.parametrize(("options", "sizes"), [({}, [3]), ({"reuse_grad": True}, [1, 1, 1])])
def test_large_gradients_are_not_copied_where_their_memory_is_reused(options, sizes):
    """On a GPU, of which fake tensors have the device alone."""
    with FakeTensorMode():
        params = [nn.Parameter(torch.empty(1024, 1025, device="cuda")) for _ in range(3)]
        optimizer = Scion([{"params": params, "norm": Sign()}], 0.1, **options)
        for p in params:
            p.grad = torch.empty_like(p)
        optimizer.step()
    assert [len(b.params) for b in optimizer._known.roster.buckets] == sizes
