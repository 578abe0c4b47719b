"""What every optimizer owes to whoever trains."""

import pytest
import torch

from normball import ClippedScion
from normball.norms import Spectral
from normball.polar import PolarExpress
from tests.optim.network import bits, build, loss, same, state_of, train
from tests.optim.optimizers import OPTIMIZERS
from tests.optim.tape import Synchronisations, flags_unknown

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*(starts|is) outside"),
    pytest.mark.parametrize("row", OPTIMIZERS, ids=str),
]


def test_it_learns(row):
    model = build(torch.float32)
    optimizer = row(row.groups(model), row.learns_at)
    before = sum(loss(model, i).item() for i in range(5))
    train(model, optimizer, 60)
    # To 0.85 to 0.875 of it; weights that differ by 1e-5 move that by 0.003.
    assert sum(loss(model, i).item() for i in range(5)) < 0.9 * before


def test_plain_and_named_parameters_give_the_same(row):
    results = []
    for choose in (
        lambda m: m.parameters(),
        lambda m: m.named_parameters(),
        lambda m: [{"params": m.parameters()}],  # an iterator, gone after one use
    ):
        model = build()
        train(model, row(choose(model)), 3)
        results.append(bits(model))
    assert same(results[0], results[1])
    assert same(results[0], results[2])


def test_the_groups_of_an_optimizer_make_another_one(row):
    model, other = build(), build()
    first, expected = row(model.named_parameters()), row(other.named_parameters())
    kept = ("params", "param_names")
    again = row([{k: v for k, v in group.items() if k in kept} for group in first.param_groups])
    assert again.param_groups[0]["param_names"] == [n for n, _ in model.named_parameters()]
    train(model, again, 2)
    train(other, expected, 2)
    assert same(bits(model), bits(other))
    with pytest.raises(ValueError, match=r"param_names=\['a'\] must be one name for each"):
        row([{"params": list(model.parameters()), "param_names": ["a"]}])


def test_a_parameter_without_gradient_stays_and_counts_zero(row):
    model, other = build(), build()
    optimizer, reference = (
        row(row.groups(model)),
        row(row.groups(other)[:2] + row.groups(other)[3:]),
    )
    train(model, optimizer, 2)
    frozen = model.conv2.weight.detach().clone()
    momentum = optimizer.state[model.conv2.weight]["momentum"].clone()
    loss(model, 9).backward()
    model.conv2.weight.grad = None
    optimizer.step()
    assert torch.equal(model.conv2.weight, frozen)
    assert torch.equal(optimizer.state[model.conv2.weight]["momentum"], momentum)
    assert float(optimizer.metrics()["group_dual_norms"][2]) == 0
    # The same as if the optimizer had never had it.
    reference.zero_grad()
    with pytest.warns(UserWarning, match="no parameter of this optimizer has a gradient"):
        assert reference.step() is None
    assert not reference.state


def test_closure(row):
    model, other = build(), build()
    optimizer, plain = row(row.groups(model)), row(row.groups(other))

    def closure():
        optimizer.zero_grad()
        value = loss(model, 0)
        value.backward()
        return value

    value = optimizer.step(closure)
    loss(other, 0).backward()
    plain.step()
    assert value.requires_grad
    assert torch.equal(value, loss(build(), 0))
    assert same(bits(model), bits(other))


def test_schedulers_change_the_step(row):
    model = build()
    optimizer = row(row.groups(model), 0.04)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda epoch: 0.5**epoch)
    assert [g["lr"] for g in optimizer.param_groups] == [0.04] * 5
    train(model, optimizer, 1)
    scheduler.step()
    assert [g["lr"] for g in optimizer.param_groups] == [0.02] * 5
    for g in optimizer.param_groups:
        g["lr"] = 0.0
    before = bits(model)
    train(model, optimizer, 1)
    assert all(
        torch.equal(x, y) for x, y in zip(before.values(), bits(model).values(), strict=True)
    )


@pytest.mark.parametrize("tensor", [False, True])
@pytest.mark.parametrize(("lr", "start", "end", "count"), [(0.1, 0.3, 0, 15), (1, 1e-3, 1, 29)])
def test_ends_that_a_scheduler_misses_by_rounding(row, lr, start, end, count, tensor):
    """Chained products end at -1e-18 and 1 + 2e-16, which are no lr to refuse or to skip at."""
    p = torch.zeros(3, requires_grad=True)
    rho = 1.0 if row.layered else row.options["rho"]
    lr = torch.tensor(lr / rho, dtype=torch.float64) if tensor else lr / rho
    optimizer = row([p], lr)
    scheduler = torch.optim.lr_scheduler.LinearLR(optimizer, float(start), end, total_iters=count)
    seen = []
    for _ in range(count + 1):
        p.grad = torch.ones_like(p)
        before = p.detach().clone()
        optimizer.step()
        scheduler.step()
        seen.append(float(optimizer.param_groups[0]["lr"]))
    assert min(seen) < 0 or max(seen) * rho > 1 or not row.layered
    assert float(optimizer.metrics()["skipped"]) == 0
    assert end or torch.equal(before, p)


def test_one_cycle_scheduler_runs(row):
    model = build()
    optimizer = row(row.groups(model))
    cycle = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, 0.02, total_steps=4, cycle_momentum=False
    )
    for _ in range(3):
        train(model, optimizer, 1)
        cycle.step()
    optimizer.load_state_dict(optimizer.state_dict())


def test_add_param_group(row):
    model, other = build(), build()
    first, *rest = row.groups(model)
    optimizer = row([first])
    for group in rest:
        optimizer.add_param_group(group)
    train(model, optimizer, 3)
    train(other, row(row.groups(other)), 3)
    assert same(bits(model), bits(other))


def test_a_refused_group_is_not_added(row):
    model = build()
    optimizer = row(row.groups(model)[:4])
    for bad in ({"norm": Spectral()}, {"radius": -1.0}, {"raduis": 1.0}):
        with pytest.raises((ValueError, TypeError)):
            optimizer.add_param_group({"params": [model.conv1.bias], **bad})
    assert len(optimizer.param_groups) == 4


def test_maximize(row):
    model, other = build(), build()
    up, down = row(row.groups(model), maximize=True), row(row.groups(other))
    for i in range(3):
        up.zero_grad()
        (-loss(model, i)).backward()
        grads = [p.grad.clone() for p in model.parameters()]
        up.step()
        assert all(torch.equal(p.grad, g) for p, g in zip(model.parameters(), grads, strict=True))
        down.zero_grad()
        loss(other, i).backward()
        down.step()
    assert same(bits(model), bits(other))


def test_gradients_stay_unless_they_may_be_reused(row):
    model, other = build(), build()
    keep, reuse = row(row.groups(model)), row(row.groups(other), reuse_grad=True)
    for i in range(5):
        for m, o in ((model, keep), (other, reuse)):
            o.zero_grad()
            loss(m, i).backward()
        grads = [p.grad.clone() for p in model.parameters()]
        keep.step()
        reuse.step()
        assert all(torch.equal(p.grad, g) for p, g in zip(model.parameters(), grads, strict=True))
    assert same(bits(model), bits(other))


def test_another_shape_is_refused_before_anything_is_written(row):
    model = build()
    optimizer = row(row.groups(model))
    train(model, optimizer, 2)
    head = model.head
    head.bias.data, head.weight.data = torch.zeros(7).double(), torch.zeros(7, 12).double()
    weights, momentum = bits(model), state_of(optimizer)
    with pytest.raises(ValueError, match=r"has the shape \(7, 12\), its momentum \(5, 12\)"):
        train(model, optimizer, 1)
    assert same(weights, bits(model))
    assert same(momentum, state_of(optimizer))


def test_the_estimate_is_the_definition_whatever_alpha_becomes(row):
    model = build()
    optimizer = row(row.groups(model), 0.0)
    expected = {p: torch.zeros_like(p) for p in model.parameters()}
    all_of_it = 0.9 if row.options.get("rho") == "auto" else 1.0
    for step, alpha in enumerate((0.3, all_of_it, all_of_it, 0.6)):
        for group in optimizer.param_groups:
            group["alpha"] = alpha
        train(model, optimizer, 1, start=step)
        for p, d in expected.items():
            d.mul_(1 - alpha).add_(p.grad, alpha=alpha)
            assert torch.allclose(optimizer.state[p]["momentum"], d, rtol=1e-12, atol=1e-15)


def test_metrics(row):
    model = build()
    optimizer = row(row.groups(model))
    size = "gap" if row.constrained else "dual_norm"
    names = {size, "step_factor", "clipped_share", "skipped", "group_dual_norms"}
    if isinstance(optimizer, ClippedScion) and optimizer._measuring:
        names |= {"shortest_step", "longest_step", "curvature", "mean_curvature", "swing"}
    assert {k: float(v.sum()) for k, v in optimizer.metrics().items()} == dict.fromkeys(names, 0)
    assert optimizer.metrics()["group_dual_norms"].shape == (5,)
    train(model, optimizer, 4)
    seen = optimizer.metrics()
    assert set(seen) == names
    assert seen["group_dual_norms"].shape == (5,)
    assert all(v.ndim == 0 for k, v in seen.items() if k != "group_dual_norms")
    if not row.constrained:
        assert float(seen["group_dual_norms"].sum()) == pytest.approx(float(seen[size]))


def test_a_step_waits_for_nothing(row):
    """The default factor off the CPU, and one that a step on the CPU can use."""
    model = build(torch.float32)
    optimizer = row(row.groups(model, PolarExpress()))
    train(model, optimizer, 1)  # The first constrained step may read the norms of the start.
    loss(model, 1).backward()
    with flags_unknown(), Synchronisations() as seen:
        optimizer.step()
        optimizer.metrics()
    assert seen.count == 0


@pytest.mark.parametrize("reuse", [False, True])
def test_what_the_host_knows_changes_nothing(row, reuse):
    """A step that branches on its flags is one that does not, also where it changes nothing."""
    model, other = build(torch.float64), build(torch.float64)
    ours, theirs = (row(row.groups(m), reuse_grad=reuse) for m in (model, other))
    for step in range(4):
        for m in (model, other):
            m.zero_grad()
            loss(m, step).backward()
            if step == 2:
                m.head.bias.grad[0] = float("nan")
        ours.step()
        with flags_unknown():
            theirs.step()
        for p, q in zip(model.parameters(), other.parameters(), strict=True):
            assert torch.allclose(p, q, rtol=1e-10, atol=1e-12)
    assert int(ours.metrics()["skipped"]) == int(theirs.metrics()["skipped"]) == 1


def test_a_step_on_meta_tensors(row):
    """Where no value exists, none can be waited for."""
    with torch.device("meta"):
        model = build(torch.float32)
    optimizer = row(row.groups(model, PolarExpress()))
    # As after the first step, which reads the norms of a constrained start.
    optimizer._known.inside = {p: g["radius"] for g in optimizer.param_groups for p in g["params"]}
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    optimizer.step()
    assert optimizer.metrics()["step_factor"].is_meta
