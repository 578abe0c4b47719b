"""Numbers of every dtype and size, zero, infinite and NaN, in every optimizer."""

import pytest
import torch

from tests.optim.network import bits, build, loss, same, state_of, train
from tests.optim.optimizers import OPTIMIZERS

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*(starts|is) outside"),
    pytest.mark.parametrize("row", OPTIMIZERS, ids=str),
]


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


@pytest.mark.parametrize("dtypes", [(torch.float32, torch.float64), (torch.float64, torch.float32)])
def test_a_model_may_change_its_dtype_while_it_trains(row, dtypes):
    """The momentum goes along: nothing is lost but digits."""
    model, other = build(dtypes[0]), build(torch.float64)
    other.load_state_dict(model.state_dict())
    optimizer, exact = row(row.groups(model)), row(row.groups(other))
    train(other, exact, 6)
    train(model, optimizer, 3)
    model.to(dtypes[1])
    train(model, optimizer, 3, start=3)
    assert {s["momentum"].dtype for s in optimizer.state.values()} == {dtypes[1]}
    for p, q in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.allclose(p.double(), q, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf"), 2e38])
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


def test_gradients_at_the_edge_of_the_dtype_keep_the_momentum_finite(row):
    """What alternates between its ends, in the half that counts as finite, and beyond."""
    model = build(torch.float32)
    optimizer = row(row.groups(model))
    for step in range(40):
        for p in model.parameters():
            end = 3.4e38 if step % 3 else 1.6e38
            p.grad = torch.full_like(p, end if step % 2 else -end)
        optimizer.step()
        assert all(m.isfinite().all() for m in state_of(optimizer).values())


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
