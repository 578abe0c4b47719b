"""What every optimizer owes to whoever trains."""

import copy
import io

import pytest
import torch
from torch import nn
from torch.distributed.fsdp._common_utils import FSDP_FLATTENED
from torch.utils._python_dispatch import TorchDispatchMode

from normball.norms import Norm, Spectral
from normball.polar import PolarExpress
from tests.optim.network import build, groups, loss, train
from tests.optim.optimizers import OPTIMIZERS
from tests.optim.tape import flags_unknown

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*(starts|is) outside"),
    pytest.mark.parametrize("row", OPTIMIZERS, ids=str),
]


def bits(model):
    return {n: p.detach().clone() for n, p in model.named_parameters()}


def same(a, b):
    """Compare bit for bit, the signs of zeros included."""
    return all(
        torch.equal(x.contiguous().view(torch.uint8), y.contiguous().view(torch.uint8))
        for x, y in zip(a.values(), b.values(), strict=True)
    )


def state_of(optimizer):
    return {i: s["momentum"].clone() for i, s in enumerate(optimizer.state.values())}


def test_it_learns(row):
    model = build(torch.float32)
    optimizer = row(row.groups(model), row.learns_at)
    before = sum(loss(model, i).item() for i in range(5))
    train(model, optimizer, 60)
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


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_small_dtypes_follow_float64(row, dtype):
    """Momentum is kept in float32, so only the rounding of the weights remains."""
    exact, model = build(), build(dtype)
    with torch.no_grad():
        for p, q in zip(exact.parameters(), model.parameters(), strict=True):
            p.copy_(q)
    a, b = row(row.groups(exact)), row(row.groups(model))
    for i in range(10):
        a.zero_grad()
        loss(exact, i).backward()
        for p, q in zip(exact.parameters(), model.parameters(), strict=True):
            q.grad = p.grad.to(dtype)
        a.step()
        b.step()
    for p, q in zip(exact.parameters(), model.parameters(), strict=True):
        assert b.state[q]["momentum"].dtype == torch.float32
        error = (p - q).norm() / p.norm().clamp(min=0.05)
        assert error.item() < 12 * torch.finfo(dtype).eps + 2e-3


def test_state_dtype(row):
    model = build(torch.float32)
    optimizer = row(row.groups(model), state_dtype=torch.bfloat16)
    train(model, optimizer, 2)
    assert {s["momentum"].dtype for s in optimizer.state.values()} == {torch.bfloat16}
    with pytest.raises(ValueError, match=r"state_dtype=torch\.int32"):
        row(row.groups(model), state_dtype=torch.int32)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("reuse", [False, True])
@pytest.mark.parametrize("when", [0, 3])
def test_a_gradient_that_is_not_finite_changes_nothing(row, bad, reuse, when):
    model, other = build(torch.float32), build(torch.float32)
    with torch.no_grad():
        for m in (model, other):
            m.conv1.bias[0] = -0.0
    optimizer, clean = (
        row(row.groups(model), reuse_grad=reuse),
        row(row.groups(other), reuse_grad=reuse),
    )
    train(model, optimizer, when)
    weights, momentum = bits(model), state_of(optimizer)
    optimizer.zero_grad()
    loss(model, 50).backward()
    model.head.weight.grad[1, 2] = bad
    optimizer.step()
    assert same(weights, bits(model))
    if when:
        assert same(momentum, state_of(optimizer))
    else:
        assert all(not m.any() for m in state_of(optimizer).values())
    assert float(optimizer.metrics()["skipped"]) == 1
    assert float(optimizer.metrics()["step_factor"]) == 0
    # Training goes on as if it had not happened.
    train(model, optimizer, 3, start=when)
    train(other, clean, 3 + when)
    assert same(bits(model), bits(other))
    assert float(optimizer.metrics()["skipped"]) == 1


def test_weights_that_are_nan_do_not_spread(row):
    model = build()
    optimizer = row(row.groups(model))
    train(model, optimizer, 1)
    before = bits(model)
    with torch.no_grad():
        model.head.bias[0] = float("nan")
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    optimizer.step()
    for name, p in model.named_parameters():
        if name != "head.bias":
            assert torch.isfinite(p).all(), name
    if row.constrained:
        assert float(optimizer.metrics()["skipped"]) == 1
        assert torch.equal(before["table.weight"], model.table.weight)


def test_gradients_over_the_whole_range(row):
    for size in (1e-40, 1e-30, 1e30, 1e38):
        model = build(torch.float32)
        optimizer = row(row.groups(model))
        for _ in range(2):
            for p in model.parameters():
                p.grad = size * torch.sign(torch.randn_like(p))
            optimizer.step()
        assert all(torch.isfinite(p).all() for p in model.parameters())
        assert float(optimizer.metrics()["skipped"]) == 0
        assert torch.isfinite(optimizer.metrics()["group_dual_norms"]).all()


def test_zero_gradients_stay_put(row):
    model = build()
    optimizer = row(row.groups(model))
    train(model, optimizer, 0)
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    optimizer.step()
    clean = build()
    if not row.constrained:
        assert same(bits(model), bits(clean))
    assert all(torch.isfinite(p).all() for p in model.parameters())


def test_metrics(row):
    model = build()
    optimizer = row(row.groups(model))
    size = "gap" if row.constrained else "dual_norm"
    names = {size, "step_factor", "clipped_share", "skipped", "group_dual_norms"}
    assert {k: float(v.sum()) for k, v in optimizer.metrics().items()} == dict.fromkeys(names, 0)
    train(model, optimizer, 4)
    seen = optimizer.metrics()
    assert set(seen) == names
    assert seen["group_dual_norms"].shape == (5,)
    assert all(v.ndim == 0 for k, v in seen.items() if k != "group_dual_norms")
    if not row.constrained:
        assert float(seen["group_dual_norms"].sum()) == pytest.approx(float(seen[size]))


class Synchronisations(TorchDispatchMode):
    """Count what would wait for a device: reading a value, or LAPACK's check of it."""

    waits = ("_local_scalar_dense", "nonzero", "_linalg_eigh", "_linalg_svd", "equal")

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func.overloadpacket.__name__ in self.waits
        return func(*args, **(kwargs or {}))


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
    optimizer._inside.update(model.parameters())
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    optimizer.step()
    assert optimizer.metrics()["step_factor"].is_meta


def test_grad_scaler(row):
    """A step under a scaler is a step without one; an overflow is left to the scaler."""
    model, other = build(torch.float32), build(torch.float32)
    optimizer, plain = row(row.groups(model)), row(row.groups(other))
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    for i in range(3):
        optimizer.zero_grad()
        scaler.scale(loss(model, i)).backward()
        if i == 1:
            model.head.bias.grad[0] = float("inf")
        scaler.step(optimizer)
        scaler.update()
        if i != 1:
            plain.zero_grad()
            loss(other, i).backward()
            plain.step()
    for p, q in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.allclose(p, q, atol=1e-6)


def test_deepcopy(row):
    model = build()
    optimizer = row(row.groups(model))
    train(model, optimizer, 2)
    pair = copy.deepcopy((model, optimizer))
    train(model, optimizer, 3, start=2)
    train(*pair, 3, start=2)
    assert same(bits(model), bits(pair[0]))


def saved(optimizer):
    buffer = io.BytesIO()
    torch.save(optimizer.state_dict(), buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
def test_a_checkpoint_continues_bit_for_bit(row, dtype):
    model = build(dtype)
    optimizer = row(row.groups(model), 0.03)
    train(model, optimizer, 4)
    resumed = build(dtype, seed=5)
    resumed.load_state_dict(model.state_dict())
    again = row(row.groups(resumed), 0.5)
    again.load_state_dict(saved(optimizer))
    assert again.param_groups[0]["lr"] == 0.03
    for p, q in zip(model.parameters(), resumed.parameters(), strict=True):
        assert optimizer.state[p]["momentum"].dtype == again.state[q]["momentum"].dtype
    train(model, optimizer, 4, start=4)
    train(resumed, again, 4, start=4)
    assert same(bits(model), bits(resumed))


def test_a_checkpoint_holds_plain_values(row):
    model = build()
    optimizer = row(row.groups(model))
    train(model, optimizer, 1)
    state = optimizer.state_dict()
    for entry in state["state"].values():
        assert set(entry) == {"momentum"}
    for group in state["param_groups"]:
        assert all(isinstance(v, str | float | int | list) for v in group.values()), group
    assert state["param_groups"][4]["norm"] == repr(optimizer.param_groups[4]["norm"])
    # The optimizer itself keeps its objects.
    assert isinstance(optimizer.param_groups[4]["norm"], Norm)


def test_a_foreign_checkpoint_is_refused_and_nothing_loaded(row):
    model = build()
    optimizer = row(row.groups(model))
    train(model, optimizer, 2)
    before = state_of(optimizer)
    adam = torch.optim.AdamW(groups_without_norm(model))
    adam.step()

    def refused(change, match):
        state = saved(optimizer)
        change(state)
        for entry in state["state"].values():
            entry["momentum"] = entry["momentum"] + 1
        with pytest.raises(ValueError, match=match):
            optimizer.load_state_dict(state)
        assert same(before, state_of(optimizer))

    refused(lambda s: s["param_groups"].pop(), "4 parameter groups, this optimizer 5")
    refused(lambda s: s["param_groups"][1].update(norm="Row()"), r"group 1 .* norm Row\(\)")
    refused(
        lambda s: s["param_groups"][4]["params"].pop(),
        "group 4 .* 4 parameters, this optimizer has 5",
    )
    refused(
        lambda s: s["state"][0].update(momentum=torch.ones(2)),
        r"momentum of parameter 0 of group 0 is \(2,\), the parameter has the shape \(11, 6\)",
    )
    refused(lambda s: s["param_groups"][2].pop("radius"), r"group 2 .* lacks \['radius'\]")
    with pytest.raises(ValueError, match=r"lacks .*'norm'.* another optimizer"):
        optimizer.load_state_dict(adam.state_dict())
    with pytest.raises(ValueError, match="no optimizer state"):
        optimizer.load_state_dict({"model": 1})


def groups_without_norm(model):
    return [{"params": g["params"]} for g in groups(model)]


BAD = [
    ({"lr": -0.1}, ValueError, r"STEP=-0\.1 must lie in \[0"),
    ({"lr": float("nan")}, ValueError, "STEP=nan"),
    ({"lr": float("inf")}, ValueError, "STEP=inf"),
    ({"lr": "0.1"}, TypeError, "STEP='0.1' must be a plain number"),
    ({"alpha": 0.0}, ValueError, r"alpha=0\.0 must lie in \(0, 1\]"),
    ({"alpha": 1.5}, ValueError, r"alpha=1\.5"),
    ({"alpha": float("nan")}, ValueError, "alpha=nan"),
]


@pytest.mark.parametrize(("options", "error", "match"), BAD, ids=str)
def test_bad_arguments(row, options, error, match):
    with pytest.raises(error, match=match.replace("STEP", row.step_name)):
        row([nn.Parameter(torch.ones(2))], **options)


BAD_KEYS = [
    ({"weight_decay": 0.1}, "'weight_decay' .* constrained=True"),
    ({"momentum": 0.9}, r"momentum 0\.9 is alpha=0\.1"),
    ({"zzz": 0.9}, "'zzz' .* known keys: .*params"),
]


@pytest.mark.parametrize(("group", "match"), BAD_KEYS, ids=str)
def test_bad_keys(row, group, match):
    with pytest.raises(TypeError, match=match):
        row([{"params": [nn.Parameter(torch.ones(2))], **group}])


def flat_shard(mark):
    p = nn.Parameter(torch.ones(4))
    setattr(p, mark, True)
    return p


BAD_PARAMS = [
    (list, ValueError, "empty parameter list"),
    (lambda: torch.ones(2), TypeError, r"write \[tensor\]"),
    (lambda: [nn.Parameter(torch.ones(2, dtype=torch.complex64))], TypeError, "view_as_real"),
    (lambda: [torch.ones(2, dtype=torch.int64)], TypeError, r"torch\.int64: only floating"),
    (lambda: [nn.Parameter(torch.ones(2, 2).to_sparse())], ValueError, "torch.sparse_coo"),
    (lambda: [nn.Parameter(torch.ones(2)) * 2], ValueError, "not a leaf"),
    (lambda: [3.0], TypeError, "parameter 0 is a float, not a tensor"),
    # FSDP1, FSDP1 with use_orig_params=True, DeepSpeed's ZeRO-3.
    (lambda: [flat_shard("_is_flat_param")], TypeError, "flat shard, .* FSDP2"),
    (lambda: [flat_shard(FSDP_FLATTENED)], TypeError, "flat shard, .* FSDP2"),
    (lambda: [flat_shard("ds_id")], TypeError, "flat shard, .* FSDP2"),
    (lambda: [nn.Parameter(torch.ones(2))] * 2, ValueError, r"of shape \(2,\) is given twice"),
    (lambda: [("w", nn.Parameter(torch.ones(2, dtype=torch.complex64)))], TypeError, "^w of shape"),
]


@pytest.mark.parametrize(("params", "error", "match"), BAD_PARAMS)
def test_bad_parameters(row, params, error, match):
    with pytest.raises(error, match=match):
        row(params())


def test_a_parameter_in_two_groups_is_refused(row):
    p = nn.Parameter(torch.ones(2))
    with pytest.raises(ValueError, match="given twice"):
        row([{"params": [p]}, {"params": [p]}])


def test_sparse_gradients_are_refused_before_anything_is_written(row):
    table = nn.Embedding(5, 3, sparse=True)
    other = nn.Parameter(torch.ones(2))
    optimizer = row([other, table.weight])
    (table(torch.tensor([1, 2])).sum() + other.sum()).backward()
    with pytest.raises(ValueError, match="sparse=False"):
        optimizer.step()
    assert torch.equal(other, torch.ones(2))
    assert not optimizer.state


def test_a_group_spoilt_later_is_refused_at_the_step(row):
    model = build()
    optimizer = row(row.groups(model))
    train(model, optimizer, 1)
    before = bits(model)
    for key, value in (("lr", float("nan")), ("alpha", 2.0), ("radius", -1.0)):
        old = optimizer.param_groups[3][key]
        optimizer.param_groups[3][key] = value
        with pytest.raises(ValueError, match=row.step_name if key == "lr" else key):
            train(model, optimizer, 1)
        optimizer.param_groups[3][key] = old
    assert same(before, bits(model))
