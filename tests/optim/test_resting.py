"""Rows of a table and experts of a stack without a gradient rest, against the formulas."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from normball import ClippedScion, Scion
from normball.norms import Column, Row, Sign, Spectral
from normball.polar import SVD
from tests.optim import reference
from tests.optim.network import bits, same

WORDS, WIDTH, EXPERTS, CLASSES = 30, 6, 5, 4


class Sparse(nn.Module):
    """A table of which a batch reads few rows, a stack of which it uses few experts, a head."""

    def __init__(self):
        super().__init__()
        self.table = nn.Parameter(0.3 * torch.randn(WORDS, WIDTH))
        self.signs = nn.Parameter(0.1 * torch.randn(WORDS, WIDTH))
        self.experts = nn.Parameter(0.3 * torch.randn(EXPERTS, WIDTH, WIDTH))
        self.head = nn.Parameter(0.1 * torch.randn(CLASSES, WIDTH))

    def forward(self, words):
        h = torch.tanh(self.table[words] + self.signs[words])
        experts = self.experts[words % EXPERTS]
        return (h + torch.tanh(torch.einsum("bij,bj->bi", experts, h))) @ self.head.T


def experts_step(d):
    """Polar factors; singular values that are rounding of zeros count as zero."""
    u, sigma, vt = np.linalg.svd(d, full_matrices=False)
    return (u * (sigma > 1e-13 * sigma.max(-1, keepdims=True))[:, None]) @ vt


def experts_norm(w):
    return max(np.linalg.norm(one, 2) for one in w)


def row(d):
    lengths = np.linalg.norm(d, axis=1, keepdims=True)
    return np.divide(d, lengths, out=np.zeros_like(d), where=lengths > 0) / np.sqrt(d.shape[1])


def norm_row(w):
    return np.sqrt(w.shape[1]) * np.linalg.norm(w, axis=1).max()


LAYERS = {
    "table": (reference.column_t, reference.norm_column_t, 2.0),
    "signs": (reference.sign, reference.norm_sign, 6.0),
    "experts": (experts_step, experts_norm, 3.0),
    "head": (row, norm_row, 8.0),
}
PARTS = dict.fromkeys(LAYERS, 0)


def build():
    torch.manual_seed(0)
    return Sparse().double()


def groups(model):
    norms = (Column(transposed=True), Sign(), Spectral(polar=SVD()), Row())
    return [
        {"params": [p], "norm": norm, "radius": LAYERS[name][2]}
        for (name, p), norm in zip(model.named_parameters(), norms, strict=True)
    ]


def gradients(model, step):
    """Three words of two experts a batch; the classes all have gradients."""
    generator = torch.Generator().manual_seed(step)
    words = 5 * torch.randint(0, 6, (8,), generator=generator)
    words = words[torch.arange(8) % 3] + step % 4 + torch.arange(8) % 2
    model.zero_grad()
    F.cross_entropy(model(words), words % CLASSES).backward()


CASES = {
    "clipped": ({"rho": 1.0}, None),
    "clipped, ahead": ({"rho": 1.5, "nesterov": True}, None),
    "variant 1": ({"rho": 0.4, "constrained": True, "variant": 1}, 1),
    "variant 1, ahead": (
        {"rho": 0.6, "constrained": True, "variant": 1, "nesterov": True},
        1,
    ),
    "variant 2": ({"rho": 0.6, "constrained": True}, 2),
    "variant 2, no momentum": ({"rho": 2.0, "constrained": True, "alpha": 1.0}, 2),
    "Scion": ({"constrained": True}, 2),
}


@pytest.mark.parametrize("lazy", [True, False])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_hundred_steps(case, lazy):
    options, variant = CASES[case]
    options = {"alpha": 0.2, "lr": 0.03, "lazy": lazy, "nesterov": False, **options}
    model = build()
    optimizer = (ClippedScion if "rho" in options else Scion)(groups(model), **options)
    x = {n: p.detach().numpy().copy() for n, p in model.named_parameters()}
    d = {n: np.zeros_like(w) for n, w in x.items()}
    factors, resting = [], 0
    for i in range(100):
        gradients(model, i)
        g = {n: p.grad.numpy().copy() for n, p in model.named_parameters()}
        resting += sum(int((reference.seen(g[n], 0) == 0).sum()) for n in ("table", "experts"))
        optimizer.step()
        factors.append(
            reference.step(
                x,
                d,
                g,
                lr=options["lr"],
                alpha=options["alpha"],
                rho=options.get("rho"),
                variant=variant,
                nesterov=options["nesterov"],
                layers=LAYERS,
                parts=PARTS if lazy else {},
            )
        )
        assert float(optimizer.metrics()["step_factor"]) == pytest.approx(factors[-1], rel=1e-9)
        for n, p in model.named_parameters():
            assert np.abs(p.detach().numpy() - x[n]).max() <= 1e-10, (i, n)
            kept = optimizer.state[p].get("momentum")
            assert kept is None or np.abs(kept.numpy() - d[n]).max() <= 1e-12, (i, n)
    assert resting >= 100 * (WORDS - 6 + EXPERTS - 2)
    if "rho" in options:
        assert min(factors) < 0.95, "the threshold must matter"


def step_with(optimizer, p, rows):
    p.grad = torch.zeros_like(p)
    p.grad[list(rows)] = 1.0
    optimizer.step()


@pytest.mark.parametrize("constrained", [False, True])
@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize(
    ("norm", "shape"),
    [(Column(transposed=True), (5, 3)), (Sign(), (5, 3)), (Spectral(), (5, 3, 2)), (Row(), (5, 2))],
    ids=str,
)
def test_what_rests_keeps_weights_and_momentum_bit_for_bit(norm, shape, constrained, nesterov):
    p = nn.Parameter(0.1 * torch.randn(shape))
    group = {"params": [p], "norm": norm, "radius": 9.0}
    optimizer = ClippedScion([group], 0.1, rho=0.1, constrained=constrained, nesterov=nesterov)
    step_with(optimizer, p, range(5))
    before, momentum = p.detach().clone(), optimizer.state[p]["momentum"].clone()
    size = "gap" if constrained else "dual_norm"
    step_with(optimizer, p, [1, 3])
    for i in (0, 2, 4):
        assert torch.equal(p[i], before[i])
        assert torch.equal(optimizer.state[p]["momentum"][i], momentum[i])
    for i in (1, 3):
        assert not torch.equal(p[i], before[i])
    # The same as of the rows that do not rest, in a table of their own.
    q = nn.Parameter(before[[1, 3]])
    alone = ClippedScion(
        [{**group, "params": [q]}], 0.1, rho=0.1, constrained=constrained, nesterov=nesterov
    )
    q.grad = torch.zeros_like(q)
    alone.step()
    alone.state[q]["momentum"].copy_(momentum[[1, 3]])
    with torch.no_grad():
        q.copy_(before[[1, 3]])
    step_with(alone, q, [0, 1])
    assert float(optimizer.metrics()[size]) == pytest.approx(float(alone.metrics()[size]))
    assert torch.allclose(p[[1, 3]], q)


def test_vectors_and_matrices_never_rest():
    """A part has a ball of its own; an entry of a vector and a row of a matrix have none."""
    params = [nn.Parameter(torch.randn(4)), nn.Parameter(torch.randn(4, 3))]
    optimizer = ClippedScion([{"params": [p]} for p in params], 0.1, rho=1e-9)
    for rows in (range(4), [0]):
        before = [p.detach().clone() for p in params]
        for p in params:
            p.grad = torch.zeros_like(p)
            p.grad[list(rows)] = torch.randn_like(p)[list(rows)]
        optimizer.step()
        for p, x in zip(params, before, strict=True):
            assert bool((p != x).all()), p.shape


def test_a_step_in_which_all_rest_changes_nothing():
    for constrained in (False, True):
        model = build()
        optimizer = ClippedScion(
            groups(model)[:3], 0.1, rho=0.1, constrained=constrained, average=1.0
        )
        gradients(model, 0)
        optimizer.step()
        before, steps = (
            bits(model),
            float(optimizer.state_dict()["param_groups"][0]["average_steps"]),
        )
        for p in model.parameters():
            p.grad = torch.zeros_like(p)
        optimizer.step()
        assert same(before, bits(model))
        assert float(optimizer.state_dict()["param_groups"][0]["average_steps"]) == steps == 1


@pytest.mark.parametrize("lazy", [True, False])
def test_small_tables_together_are_tables_one_by_one(lazy):
    """Stacked parameters rest in their own rows."""
    ours = [nn.Parameter(torch.full((4, 3), 0.1 * i)) for i in range(1, 4)]
    theirs = [nn.Parameter(p.detach().clone()) for p in ours]
    norm = {"norm": Column(transposed=True), "radius": 5.0}
    options = {"rho": 0.5, "constrained": True, "variant": 1, "nesterov": True, "lazy": lazy}
    one = ClippedScion([{"params": ours, **norm}], 0.1, **options)
    two = ClippedScion([{"params": [p], **norm} for p in theirs], 0.1, **options)
    for step in range(6):
        for i, (p, q) in enumerate(zip(ours, theirs, strict=True)):
            grad = torch.randn(4, 3, generator=torch.Generator().manual_seed(10 * step + i))
            grad[(step + i) % 4] = 0
            p.grad, q.grad = grad, grad.clone()
        one.step()
        two.step()
        for p, q in zip(ours, theirs, strict=True):
            assert torch.allclose(p, q, atol=1e-6)


@pytest.mark.parametrize("count", [1, 2])
def test_what_rests_is_not_on_the_way_to_the_corner(count):
    """A row on the edge rests; the other is near its corner, so `||w||` is small. Also stacked."""
    norm = {"norm": Column(transposed=True), "radius": 1.0}
    tables = [nn.Parameter(torch.tensor([[1.0, 1.0], [0.9, 0.9]]).double()) for _ in range(count)]
    options = {"rho": 4.0, "alpha": 1.0, "constrained": True, "variant": 1}
    optimizer = ClippedScion([{"params": tables, **norm}], 0.5, **options)
    for p in tables:
        p.grad = torch.tensor([[0.0, 0.0], [-1.0, -1.0]]).double()
    optimizer.step()
    # w = 0.9 - 1 in both entries: the gap is 0.2 for each table, ||w|| = 0.1.
    assert float(optimizer.metrics()["gap"]) == pytest.approx(0.2 * count)
    assert float(optimizer.metrics()["step_factor"]) == pytest.approx(1.0)
    for p in tables:
        assert torch.allclose(p, torch.tensor([[1.0, 1.0], [0.95, 0.95]]).double())
