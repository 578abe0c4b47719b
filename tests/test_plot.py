"""What is recorded, and that the pictures show it."""

import builtins
import math

import pytest
import torch

from normball import GGNC, ClippedScion, Scion, param_groups, plot
from normball.norms import Euclidean


def network():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(5, 8), torch.nn.Tanh(), torch.nn.Linear(8, 3))


def trained(make, steps=12, every=1):
    model = network()
    optimizer = make(model)
    history, seen = plot.History(optimizer, every=every), []
    for step in range(steps):
        optimizer.zero_grad()
        x = torch.randn(16, 5, generator=torch.Generator().manual_seed(step))
        model(x).square().mean().backward()
        optimizer.step()
        history.record()
        seen.append({name: value.clone() for name, value in optimizer.metrics().items()})
    return history, seen


def clipped(model, **options):
    return ClippedScion(param_groups(model), lr=0.05, rho=2.0, **options)


@pytest.mark.parametrize("every", [1, 5])
def test_a_record_is_what_the_metrics_were(every):
    history, seen = trained(clipped, every=every)
    values = history.values()
    kept = seen[::every]
    assert len(history) == len(kept)
    assert values["step"].tolist() == list(range(1, len(seen) + 1, every))
    for name in kept[0]:
        assert torch.equal(values[name], torch.stack([x[name].double() for x in kept]))
    assert values["threshold"].eq(2.0).all()


@pytest.mark.parametrize("rho", [2.0, "auto"])
def test_recording_waits_for_nothing(rho):
    model = network().to("meta")
    optimizer = ClippedScion(param_groups(model), lr=0.05, rho=rho)
    for p in model.parameters():
        p.grad = torch.empty_like(p)
    optimizer.step()
    history = plot.History(optimizer)
    history.record()  # a tensor without values could not be read
    assert len(history) == 1


def test_a_threshold_that_is_written_to_is_recorded_as_it_was():
    rho = torch.tensor(1.0)
    model = network()
    optimizer = ClippedScion(param_groups(model), lr=0.05, rho=rho)
    history = plot.History(optimizer)
    for value in (1.0, 4.0):
        rho.fill_(value)
        history.record()
    assert history.values()["threshold"].tolist() == [1, 4]


@pytest.mark.filterwarnings("ignore:.* starts outside its ball")
def test_the_threshold_is_drawn_where_it_is_one_number():
    cases = {
        "clipped": (clipped, True),
        "variant 2": (lambda m: clipped(m, constrained=True), True),
        "variant 1": (lambda m: clipped(m, constrained=True, variant=1), False),
        "scion": (lambda m: Scion(param_groups(m), lr=0.05), False),
        "ggnc": (lambda m: GGNC(m.parameters(), gamma=0.1, rho=2.0, norm=Euclidean()), True),
    }
    for make, drawn in cases.values():
        history, _ = trained(make)
        axes = plot.dual_norm(history)
        lines = {line.get_label(): line for line in axes.get_lines()}
        assert ("threshold rho" in lines) is drawn
        values = history.values()
        (name,) = {"dual_norm", "gap"} & set(values)
        assert lines[name.replace("_", " ")].get_ydata().tolist() == values[name].tolist()


def test_bars_and_heatmap_split_the_dual_norm():
    history, _ = trained(clipped)
    values = history.values()
    bars = [bar.get_width() for bar in plot.layers(history).patches]
    assert math.fsum(bars) == pytest.approx(float(values["dual_norm"][-1]))
    axes = plot.heatmap(history)
    shares = torch.as_tensor(axes.images[0].get_array().data)
    torch.testing.assert_close(shares.sum(0), torch.ones(len(history), dtype=torch.float64))
    names = [label.get_text() for label in axes.get_yticklabels()]
    assert names == history.labels
    assert names[0] == "0.weight"
    assert len(names) == len(history.optimizer.param_groups)


def test_shares_of_nothing_are_the_least_there_is():
    model = torch.nn.Linear(3, 2)
    optimizer = ClippedScion(param_groups(model), lr=0.1, rho=1.0)
    history = plot.History(optimizer)
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    optimizer.step()
    history.record()
    image = plot.heatmap(history).images[0]
    assert image.get_clim() == (0, 1)
    assert not image.get_array().any()


def test_all_of_it_is_one_picture(tmp_path):
    history, _ = trained(clipped)
    plot.draw(history).savefig(tmp_path / "seen.png")
    assert (tmp_path / "seen.png").read_bytes().startswith(b"\x89PNG")


def test_a_group_that_joins_on_the_way_is_drawn():
    model = network()
    optimizer = ClippedScion([model[0].weight], lr=0.05, rho=2.0)
    history = plot.History(optimizer)
    for joins in (True, False):
        model.zero_grad()
        model(torch.ones(2, 5)).sum().backward()
        optimizer.step()
        history.record()
        if joins:
            optimizer.add_param_group({"params": [model[2].weight]})
    parts = history.values()["group_dual_norms"]
    assert parts.isnan().tolist() == [[False, True], [False, False]]
    plot.draw(history)
    assert history.labels == ["group 0", "group 1"]


def test_refusals(monkeypatch):
    with pytest.raises(TypeError, match="SGD has no dual norm"):
        plot.History(torch.optim.SGD(network().parameters(), lr=0.1))
    optimizer = clipped(network())
    for bad in (0, -1, 1.5, True):
        with pytest.raises(ValueError, match=r"every=.* must be a whole number"):
            plot.History(optimizer, every=bad)
    with pytest.raises(ValueError, match="nothing was recorded"):
        plot.draw(plot.History(optimizer))
    history, _ = trained(clipped)
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match="pip install"):
        plot.dual_norm(history)
