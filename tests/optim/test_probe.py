"""The probe measures what it says, and leaves training alone."""

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

from normball import GGNC, ClippedScion, SmoothnessProbe, param_groups
from normball.norms import RMS, Euclidean, Nuclear, Row, Sign, Spectral, SpectralConv
from normball.optim.probe import fit_line
from tests.optim.network import build, groups, loss


def test_a_quadratic_has_its_curvature():
    """f = <x, A x> / 2: L is ||A s||* / ||s|| along the step s, and L1 = 0."""
    generator = torch.Generator().manual_seed(1)
    root = torch.randn(6, 6, generator=generator, dtype=torch.float64)
    a = root @ root.T
    for norm, dual, length in (
        (Euclidean(), lambda g: g.norm(), lambda s: s.norm()),
        (Sign(normalized=False), lambda g: g.abs().sum(), lambda s: s.abs().max()),
    ):
        x = nn.Parameter(torch.ones(6, dtype=torch.float64))
        optimizer = GGNC([x], gamma=0.001, rho=1.0, norm=norm)
        probe = SmoothnessProbe(optimizer, every=1)
        expected = []

        def closure(x=x):
            x.grad = None
            value = x @ a @ x / 2
            value.backward()
            return value

        for _ in range(5):
            start = x.detach().clone()
            probe.step(closure)
            step = x.detach() - start
            expected.append((float(dual(a @ start)), float(dual(a @ step) / length(step))))
        data = probe.samples()
        got = torch.stack([data["dual_norm"], data["L"]], 1).numpy()
        assert got == pytest.approx(np.array(expected), rel=1e-8)
        assert data["step"].tolist() == [0, 1, 2, 3, 4]


def test_layers_by_hand():
    model = build()
    optimizer = ClippedScion(groups(model), 0.01, rho=1.0)
    probe = SmoothnessProbe(optimizer, every=1)

    def closure():
        optimizer.zero_grad()
        value = loss(model, 0)
        value.backward()
        return value

    closure()
    pairs = [(p, g["norm"], g["radius"]) for g in optimizer.param_groups for p in g["params"]]
    old = [(p.detach().clone(), p.grad.clone()) for p, _, _ in pairs]
    probe.step(closure)
    assert all(torch.equal(p.grad, g) for (p, _, _), (_, g) in zip(pairs, old, strict=True))
    closure()
    duals = [
        r * float(n.dual_norm(p.grad - g)) for (p, n, r), (_, g) in zip(pairs, old, strict=True)
    ]
    moves = [
        float(n.norm(p.detach() - x)) / r for (p, n, r), (x, _) in zip(pairs, old, strict=True)
    ]
    data = probe.samples()
    assert float(data["L"][0]) == pytest.approx(sum(duals) / max(moves), rel=1e-6)
    assert float(data["group_L"][0, 4]) == pytest.approx(sum(duals[4:]) / max(moves[4:]), rel=1e-6)
    assert float(data["dual_norm"][0]) == pytest.approx(
        sum(r * float(n.dual_norm(g)) for (_, n, r), (_, g) in zip(pairs, old, strict=True))
    )
    layers = list(probe.layers().values())
    assert len(layers) == len(pairs)
    for found, (_, n, r), (_, g), dual, move in zip(layers, pairs, old, duals, moves, strict=True):
        assert found.shape == (2, 1)
        assert float(found[0, 0]) == pytest.approx(r * float(n.dual_norm(g)), rel=1e-6)
        assert float(found[1, 0]) == pytest.approx(dual / move, rel=1e-6)


MIXED = [
    *[(Spectral(), 2.0, (5, 3))] * 4,
    *[(SpectralConv(), 1.0, (4, 2, 3, 3))] * 2,
    *[(RMS(), 0.5, (7,))] * 3,
    *[(Row(), 3.0, (4, 6))] * 3,
    *[(Sign(), 1.5, (6, 2))] * 2,
    *[(Nuclear(), 1.0, (4, 4))] * 2,
    (Spectral(), 1.0, (130, 130)),  # too large to be stacked
    (Euclidean(), 1.0, (3, 5)),
]


@pytest.mark.parametrize("scale", [1.0, 1e170, 1e-170])
def test_layers_in_stacks_have_the_values_of_each_alone(scale):
    """Small equal layers between others, in float64, each by its own dual norm and norm."""
    generator = torch.Generator().manual_seed(4)

    def random(shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    params = [nn.Parameter(random(shape)) for _, _, shape in MIXED]
    targets = [random(shape) for _, _, shape in MIXED]
    kinds: dict = {}
    for number, (norm, radius, _) in enumerate(MIXED):
        kinds.setdefault((norm, radius), []).append(number)
    optimizer = ClippedScion(
        [
            {"params": [(str(i), params[i]) for i in own], "norm": norm, "radius": radius}
            for (norm, radius), own in kinds.items()
        ],
        0.01,
        rho=scale,
    )
    probe = SmoothnessProbe(optimizer, every=1)

    def closure():
        optimizer.zero_grad()
        parts = (
            scale * (x - y).square().sum() / (1 + i)
            for i, (x, y) in enumerate(zip(params, targets, strict=True))
        )
        value = sum(parts)
        value.backward()
        return value

    closure()
    old = [(x.detach().clone(), x.grad.clone()) for x in params]
    probe.step(closure)
    closure()
    duals, turns, lengths = [], [], []
    for x, (before, gradient), (norm, radius, _) in zip(params, old, MIXED, strict=True):
        duals.append(radius * float(norm.dual_norm(gradient)))
        turns.append(radius * float(norm.dual_norm(x.grad - gradient)))
        lengths.append(float(norm.norm(x.detach() - before)) / radius)
    # Sums of at most 130 x 130 products, each of two numbers rounded to float64.
    near = 130**2 * torch.finfo(torch.float64).eps
    found = probe.layers()
    assert set(found) == {str(i) for i in range(len(MIXED))}
    for i in range(len(MIXED)):
        expected = [duals[i], turns[i] / lengths[i]]
        assert found[str(i)][:, 0].tolist() == pytest.approx(expected, rel=near)
    data = probe.samples()
    assert float(data["dual_norm"][0]) == pytest.approx(sum(duals), rel=near)
    assert float(data["L"][0]) == pytest.approx(sum(turns) / max(lengths), rel=near)
    for group, own in enumerate(kinds.values()):
        expected = sum(turns[i] for i in own) / max(lengths[i] for i in own)
        assert float(data["group_L"][0, group]) == pytest.approx(expected, rel=near)


def test_more_equal_layers_take_no_more_minimisers():
    class Counted(Spectral):
        calls = 0

        def _minimise(self, *given):
            type(self).calls += 1
            return super()._minimise(*given)

    counts = []
    for layers in (2, 40):
        params = [nn.Parameter(torch.eye(4)) for _ in range(layers)]
        optimizer = ClippedScion([{"params": params, "norm": Counted()}], 0.01, rho=1.0)
        probe = SmoothnessProbe(optimizer, every=1)

        def closure(params=params, optimizer=optimizer):
            optimizer.zero_grad()
            value = sum(x.square().sum() for x in params)
            value.backward()
            return value

        before = Counted.calls
        probe.step(closure)
        counts.append(Counted.calls - before)
    assert counts == [3, 3]  # the step's, and those of the gradient and of its change


def test_a_layer_without_a_gradient_is_left_out():
    """A quadratic in each of two parameters, of which one rests every second step."""
    a, b = (nn.Parameter(torch.full((3,), 2.0, dtype=torch.float64)) for _ in range(2))
    optimizer = ClippedScion([("a", a), ("b", b)], 0.05, rho=1.0, alpha=0.9)
    probe = SmoothnessProbe(optimizer, every=1)
    for step in range(8):

        def closure(step=step):
            optimizer.zero_grad()
            value = 3 * a.square().sum() + (5 * b.square().sum() if step % 2 else 0)
            value.backward()
            return value

        probe.step(closure)
    layers = probe.layers()
    assert {name: pairs.shape for name, pairs in layers.items()} == {"a": (2, 8), "b": (2, 4)}
    # ||g||* = 3 ||x||_1 / sqrt(3) in RMS norms of 3 entries: the curvature times 3.
    assert layers["a"][1].tolist() == pytest.approx([18.0] * 8)
    assert layers["b"][1].tolist() == pytest.approx([30.0] * 4)
    assert probe.fit(layer="b").l0 == pytest.approx(30.0)
    with pytest.raises(ValueError, match=r"layer='c' with group=None: .* one of \['a', 'b'\]"):
        probe.fit(layer="c")
    with pytest.raises(ValueError, match="group=0: give one of them"):
        probe.fit(0, layer="a")


def test_a_group_may_join_on_the_way():
    x, y = (nn.Parameter(torch.ones(2, dtype=torch.float64)) for _ in range(2))
    optimizer = ClippedScion([x], 0.01, rho=1.0)
    probe = SmoothnessProbe(optimizer, every=1)

    def closure():
        x.grad = y.grad = None
        value = (x + 3 * y).square().sum()
        value.backward()
        return value

    probe.step(closure)
    optimizer.add_param_group({"params": [y]})
    probe.step(closure)
    for name in ("group_dual_norm", "group_L"):
        assert probe.samples()[name].isfinite().tolist() == [[True, False], [True, True]]


def test_a_closure_without_gradients_is_refused():
    optimizer = ClippedScion([nn.Parameter(torch.ones(2))], 0.01, rho=1.0)
    probe = SmoothnessProbe(optimizer)
    with pytest.raises(ValueError, match="no gradient: it must call backward"):
        probe.step(lambda: torch.tensor(1.0))
    assert len(probe.samples()["step"]) == 0


def test_training_is_unchanged_bit_for_bit():
    """Dropout draws the same numbers, batch norm's averages are put back."""
    results = []
    for probed in (False, True):
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Linear(6, 16), nn.BatchNorm1d(16), nn.Dropout(0.5), nn.Linear(16, 3)
        )
        optimizer = ClippedScion(param_groups(model), 0.01, rho=1.0)
        probe = SmoothnessProbe(optimizer, every=2, model=model)
        for _ in range(7):
            x, y = torch.randn(8, 6), torch.randint(3, (8,))

            def closure(x=x, y=y, model=model, optimizer=optimizer):
                optimizer.zero_grad()
                value = nn.functional.cross_entropy(model(x), y)
                value.backward()
                return value

            if probed:
                probe.step(closure)
            else:
                optimizer.step(closure)
        results.append([*model.parameters(), *model.buffers(), torch.rand(3)])
        assert len(probe.samples()["step"]) == (4 if probed else 0)
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_the_fit_is_theil_and_sens():
    generator = torch.Generator().manual_seed(3)
    x = torch.rand(60, generator=generator, dtype=torch.float64) * 10
    y = 5 + 2 * x + 0.3 * torch.randn(60, generator=generator, dtype=torch.float64)
    y[:12] += 200  # a fifth of outliers
    y[12] = torch.nan
    fit = fit_line(x, y)
    finite = torch.isfinite(y)
    reference = stats.theilslopes(y[finite].numpy(), x[finite].numpy())
    assert fit.l1 == pytest.approx(reference.slope, rel=0.02)
    assert fit.l1 == pytest.approx(2, abs=0.3)
    assert fit.l0 == pytest.approx(5, abs=2)
    assert fit.l1_interval[0] < fit.l1 < fit.l1_interval[1]
    assert fit.l0_interval[0] < fit.l0 < fit.l0_interval[1]
    assert fit.count == 59
    rank = stats.spearmanr(x[finite].numpy(), y[finite].numpy()).statistic
    assert fit.correlation == pytest.approx(rank)
    assert fit.rho(0.5) == 0.5 * fit.l0


@pytest.mark.parametrize("values", [2, 5, 40])
def test_equal_values_share_their_rank(values):
    generator = torch.Generator().manual_seed(values)
    x = torch.randint(values, (30,), generator=generator).double()
    y = torch.randint(values, (30,), generator=generator) + x
    expected = stats.spearmanr(x.numpy(), y.numpy()).statistic
    assert fit_line(x, y).correlation == pytest.approx(expected, rel=1e-12)


def test_a_constant_side_has_no_correlation():
    x = torch.arange(4.0)
    assert np.isnan(fit_line(x, torch.ones(4)).correlation)
    assert np.isnan(fit_line(torch.ones(4), x).correlation)


def test_the_fit_is_never_negative():
    x = torch.arange(5.0)
    falling = fit_line(x, 5 - x)
    assert falling.l1 == 0
    assert fit_line(x, 3 * x - 100).l0 == 0
    flat = fit_line(torch.ones(4), torch.tensor([1.0, 2.0, 3.0, 4.0]))
    assert (flat.l1, flat.l0) == (0, 2)


def test_refusals():
    p = nn.Parameter(torch.ones(2))
    with pytest.raises(TypeError, match="not in those of SGD"):
        SmoothnessProbe(torch.optim.SGD([p], 0.1))
    optimizer = ClippedScion([p], 0.1, rho=1.0)
    with pytest.raises(ValueError, match="every=0"):
        SmoothnessProbe(optimizer, every=0)
    with pytest.raises(ValueError, match="at least three finite measurements, got 0"):
        SmoothnessProbe(optimizer).fit()
