"""What every optimizer refuses, and says what to do instead."""

import pytest
import torch
from torch import nn
from torch.distributed.fsdp._common_utils import FSDP_FLATTENED

from normball.norms import Spectral
from tests.optim.network import bits, build, same, state_of, train
from tests.optim.optimizers import OPTIMIZERS

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*(starts|is) outside"),
    pytest.mark.parametrize("row", OPTIMIZERS, ids=str),
]


BAD = [
    ({"lr": -0.1}, ValueError, r"STEP=-0\.1 must lie in \[0"),
    ({"lr": float("nan")}, ValueError, "STEP=nan"),
    ({"lr": float("inf")}, ValueError, "STEP=inf"),
    ({"lr": "0.1"}, TypeError, "STEP='0.1' must be a plain number"),
    ({"lr": True}, TypeError, "STEP=True must be a plain number, not bool"),
    ({"alpha": 0.0}, ValueError, r"alpha=0\.0 must lie in \(0, 1\]"),
    ({"alpha": 1.5}, ValueError, r"alpha=1\.5"),
    ({"alpha": float("nan")}, ValueError, "alpha=nan"),
]


@pytest.mark.parametrize(("options", "error", "match"), BAD, ids=str)
def test_bad_arguments(row, options, error, match):
    with pytest.raises(error, match=match.replace("STEP", row.step_name)):
        row([nn.Parameter(torch.ones(2))], **options)


ARGUMENTS = [
    ({"weight_decay": 0.1}, r"weight_decay=0\.1: leave it out.*constrained=True"),
    ({"momentum": 0.9}, r"momentum 0\.9 is alpha=0\.1"),
    ({"betas": (0.9, 0.95)}, r"beta 0\.9 is alpha=0\.1"),
    ({"eps": 1e-8}, "no eps is needed"),
    ({"foreach": True}, "small equal layers step together by themselves"),
    ({"maximise": True}, "did you mean maximize="),
    ({"zzz": 1}, "its arguments: params, "),
]


@pytest.mark.parametrize(("options", "match"), ARGUMENTS, ids=str)
def test_unknown_arguments_of_the_constructor(row, options, match):
    with pytest.raises(TypeError, match=match):
        row([nn.Parameter(torch.ones(2))], **options)


def test_several_entries_in_one_place_of_memory(row):
    p = nn.Parameter(torch.zeros(1, 4).expand(4, 4))
    with pytest.raises(ValueError, match=r"several entries in one place.*contiguous"):
        row([p])
    row([nn.Parameter(torch.zeros(1, 4)[:, ::2])])  # strides alone are no reason


def test_weights_of_8_bits(row):
    p = nn.Parameter(torch.zeros(4, 4).to(torch.float8_e4m3fn), requires_grad=False)
    with pytest.raises(TypeError, match=r"float8_e4m3fn.*16 bits"):
        row([p])


BAD_KEYS = [
    ({"weight_decay": 0.1}, "'weight_decay' .* constrained=True"),
    ({"momentum": 0.9}, r"momentum 0\.9 is alpha=0\.1"),
    ({"maximize": True}, "pass maximize= to the optimizer"),
    ({"radios": 0.9}, "'radios' .* did you mean|'radios' .* keys: .*params"),
    ({"scheduler": nn.Identity}, "'scheduler' of type type, which a checkpoint cannot hold"),
]


@pytest.mark.parametrize(("group", "match"), BAD_KEYS, ids=str)
def test_bad_keys(row, group, match):
    with pytest.raises(TypeError, match=match):
        row([{"params": [nn.Parameter(torch.ones(2))], **group}])


def flat_shard(mark):
    p = nn.Parameter(torch.ones(4))
    setattr(p, mark, True)
    return p


def one_memory(shape=(2,), device=None):
    p = nn.Parameter(torch.ones(shape, device=device))
    return [p, nn.Parameter(p)]


BAD_PARAMS = [
    (one_memory, ValueError, r"parameter 1 of shape \(2,\) lies in the memory of another .* tie"),
    (lambda: one_memory((200, 100)), ValueError, "memory of another parameter"),
    (lambda: one_memory(device="meta"), ValueError, "memory of another parameter"),
    (lambda: nn.LazyLinear(3).parameters(), ValueError, "parameter 0 has no shape yet: run a"),
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


def test_parts_of_one_memory_that_do_not_meet_are_taken(row):
    """Also where their rows interlock, or where nothing is stored."""
    whole = torch.ones(4, 6)
    params = [whole[:, :3].requires_grad_(), whole[:, 3:].requires_grad_()]
    empty = [nn.Parameter(torch.ones(0)), nn.Parameter(torch.ones(0))]
    meta = [nn.Parameter(torch.ones(2, device="meta")) for _ in range(2)]
    for given in (params, empty, meta):
        assert len(row(given).param_groups[0]["params"]) == 2


def test_one_memory_in_two_groups_is_refused(row):
    first, second = one_memory()
    optimizer = row([first])
    with pytest.raises(ValueError, match="memory of another parameter"):
        optimizer.add_param_group({"params": [second]})
    assert len(optimizer.param_groups) == 1


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


def test_a_norm_spoilt_later_is_refused_before_anything_is_written(row):
    model = build()
    optimizer = row(row.groups(model))
    train(model, optimizer, 1)
    weights, momentum = bits(model), state_of(optimizer)
    group = optimizer.param_groups[4]  # vectors
    old = group["norm"]
    misfit = "parameter 0 of group 4: " if row.layered else "but this optimizer was built with"
    for value, error, match in (
        ("Sign", TypeError, r"norm='Sign' is not .* did you mean Sign\(\)"),
        (Spectral(), ValueError, misfit),
    ):
        group["norm"] = value
        with pytest.raises(error, match=match):
            train(model, optimizer, 1)
    group["norm"] = old
    assert same(weights, bits(model))
    assert same(momentum, state_of(optimizer))
    train(model, optimizer, 1)
