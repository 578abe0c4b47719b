"""What every optimizer saves, loads and copies."""

import copy
import io

import pytest
import torch

from normball.norms import Norm
from tests.optim.network import bits, build, groups, same, state_of, train
from tests.optim.optimizers import OPTIMIZERS

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*(starts|is) outside"),
    pytest.mark.parametrize("row", OPTIMIZERS, ids=str),
]


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
        assert set(entry) == row.kept
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
    foreign = adam.state_dict()
    with pytest.raises(ValueError, match=r"lacks .*'norm'.* another optimizer"):
        optimizer.load_state_dict(foreign)
    with pytest.raises(ValueError, match="no optimizer state"):
        optimizer.load_state_dict({"model": 1})


def groups_without_norm(model):
    return [{"params": g["params"]} for g in groups(model)]


def test_an_entry_without_momentum_starts_anew(row):
    model, other = build(), build()
    optimizer, expected = row(row.groups(model)), row(row.groups(other))
    state = optimizer.state_dict()
    state["state"] = {i: {} for i in range(9)}
    optimizer.load_state_dict(state)
    train(model, optimizer, 2)
    train(other, expected, 2)
    assert same(bits(model), bits(other))


def test_names_in_another_order_are_refused(row):
    first, second = torch.ones(2).requires_grad_(), torch.ones(2).requires_grad_()
    optimizer = row([("a", first), ("b", second)])
    first.grad, second.grad = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 2.0])
    optimizer.step()
    swapped = row([("b", second), ("a", first)])
    with pytest.raises(ValueError, match="saved with a where this optimizer has b"):
        swapped.load_state_dict(saved(optimizer))
    assert not swapped.state
    # Other names say nothing: a wrapper may have put a prefix there.
    wrapped = row([("_orig_mod.a", first), ("_orig_mod.b", second)])
    wrapped.load_state_dict(saved(optimizer))
    assert wrapped.param_groups[0]["param_names"] == ["_orig_mod.a", "_orig_mod.b"]
    assert torch.equal(state_of(wrapped)[1], state_of(optimizer)[1])


def test_hooks_see_the_state_before_and_change_what_was_loaded(row):
    """As torch documents it: a hook brings the parameters of a state into order by name."""
    model = build()
    optimizer = row(model.named_parameters())
    train(model, optimizer, 2)
    expected = {n: optimizer.state[p]["momentum"].clone() for n, p in model.named_parameters()}
    turned = row(reversed(list(model.named_parameters())))

    def by_name(optimizer, state):
        (group,) = state["param_groups"]
        number = dict(zip(group["param_names"], group["params"], strict=True))
        names = optimizer.param_groups[0]["param_names"]
        entries = {i: state["state"][number[name]] for i, name in enumerate(names)}
        return {"state": entries, "param_groups": [group | {"param_names": names}]}

    before = turned.register_load_state_dict_pre_hook(by_name)
    turned.load_state_dict(saved(optimizer))
    for name, p in model.named_parameters():
        assert torch.equal(turned.state[p]["momentum"], expected[name]), name

    def forget(optimizer):
        optimizer.state[model.head.bias]["momentum"].zero_()

    turned.register_load_state_dict_post_hook(forget)
    turned.load_state_dict(saved(optimizer))
    assert not turned.state[model.head.bias]["momentum"].any()
    # None of ours stays.
    before.remove()
    assert not turned._optimizer_load_state_dict_pre_hooks
    assert len(turned._optimizer_load_state_dict_post_hooks) == 1
