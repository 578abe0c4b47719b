"""Averaged weights: saved, loaded and copied, their settings, and whoever works with them."""

import copy
import io
import pickle

import pytest
import torch
from torch import nn

from normball import GGNC, S3CG, ClippedScion, Scion, SmoothnessProbe, find_lr
from normball.norms import Sign
from tests.optim.network import averages, bits, build, loss, same, train
from tests.optim.test_average import AVERAGED, every, recipe, sixteen

pytestmark = pytest.mark.filterwarnings("ignore:.*(starts|is) outside")


def reread(state):
    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)


@every
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("model_first", [True, False])
@pytest.mark.parametrize("in_eval", [True, False])
@pytest.mark.parametrize("into_eval", [True, False])
def test_a_checkpoint_of_either_mode_goes_on(row, dtype, model_first, in_eval, into_eval):
    model = build(dtype)
    optimizer = row(row.groups(model))
    train(model, optimizer, 4)
    if in_eval:
        optimizer.eval()
    weights, state = reread(model.state_dict()), reread(optimizer.state_dict())
    shown = bits(model)
    optimizer.train()

    resumed = build(dtype, seed=5)
    again = row(row.groups(resumed))
    train(resumed, again, 1)
    if into_eval:
        again.eval()
    loads = [lambda: resumed.load_state_dict(weights), lambda: again.load_state_dict(state)]
    for load in loads if model_first else reversed(loads):
        load()
    assert same(shown, bits(resumed))
    again.eval()
    optimizer.eval()
    assert same(bits(model), bits(resumed))
    for m, o in ((model, optimizer), (resumed, again)):
        o.train()
        train(m, o, 3, start=4)
    assert same(bits(model), bits(resumed))
    assert same(averages(model, optimizer), averages(resumed, again))


@pytest.mark.parametrize("in_eval", [True, False])
@every
def test_copies_and_pickles(row, in_eval):
    model = build(torch.bfloat16)
    optimizer = row(row.groups(model))
    train(model, optimizer, 3)
    if in_eval:
        optimizer.eval()
    pairs = [copy.deepcopy((model, optimizer)), pickle.loads(pickle.dumps((model, optimizer)))]
    optimizer.train()
    train(model, optimizer, 2, start=3)
    for twin, its in pairs:
        its.train()
        train(twin, its, 2, start=3)
        assert same(bits(model), bits(twin))
        assert same(averages(model, optimizer), averages(twin, its))


def refused(optimizer, state, match):
    """Load a state that must change nothing."""
    before = copy.deepcopy(optimizer.state_dict())
    with pytest.raises(ValueError, match=match):
        optimizer.load_state_dict(state)
    after = optimizer.state_dict()
    assert after["param_groups"] == before["param_groups"]
    assert set(after["state"]) == set(before["state"])
    for number, entry in before["state"].items():
        assert same(entry, after["state"][number])


def test_a_state_with_an_average_needs_one_and_the_other_way_round():
    model, other = build(), build()
    averaging, plain = recipe(model), recipe(other, None)
    train(model, averaging, 2)
    train(other, plain, 2)
    refused(plain, averaging.state_dict(), r"group 0: the state has an average .*average=0\.1")
    refused(averaging, plain.state_dict(), "group 0: the optimizer has an average .*average=None")


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda g: g.pop("average_steps"), "only some of 'average', 'average_steps'"),
        (lambda g: g.update(average_steps=-1.0), r"average_steps=-1\.0 .* from 0 on"),
        (lambda g: g.update(average_steps=float("nan")), "average_steps=nan"),
        (lambda g: g.update(average_in_weights=1), "average_in_weights=1 .* True or False"),
        (lambda g: g.update(average=1.5), r"average=1\.5 must lie in \(0, 1\]"),
        (lambda g: g.update(average_steps=7.0), "the groups of the saved state differ"),
        (lambda g: g.update(average_in_weights=True), "the groups of the saved state differ"),
    ],
)
def test_a_state_that_was_changed_is_refused(change, match):
    model = build()
    optimizer = recipe(model)
    train(model, optimizer, 2)
    state = optimizer.state_dict()
    change(state["param_groups"][1])
    refused(optimizer, state, match)


@sixteen
def test_a_state_of_sixteen_bits_without_its_fast_weights_is_refused(dtype):
    """What torch.distributed.checkpoint reads into the state of an optimizer in train mode."""
    model = build(dtype)
    optimizer = recipe(model)
    train(model, optimizer, 2)
    optimizer.eval()
    state = optimizer.state_dict()
    optimizer.train()
    for entry in state["state"].values():
        entry.pop("fast", None)
    match = r"saved after eval\(\), and lacks the fast weights .* shape \(11, 6\): save it after"
    refused(optimizer, state, match)


def test_a_model_may_change_its_dtype_while_it_averages():
    model, other = build(torch.float32), build(torch.float64)
    other.load_state_dict(model.state_dict())
    optimizer, exact = recipe(model), recipe(other)
    train(other, exact, 6)
    train(model, optimizer, 3)
    model.double()
    train(model, optimizer, 3, start=3)
    assert {entry["average"].dtype for entry in optimizer.state.values()} == {torch.float64}
    for name, mean in averages(model, optimizer).items():
        assert torch.allclose(mean, averages(other, exact)[name], rtol=1e-4, atol=1e-5)


# -- settings, and whoever works with the optimizer ------------------------------------------------


@pytest.mark.parametrize("make", [ClippedScion, Scion, GGNC, S3CG])
@pytest.mark.parametrize("average", [0.0, -0.1, 1.01, float("nan"), float("inf")])
def test_weights_out_of_range(make, average):
    p = nn.Parameter(torch.ones(3))
    with pytest.raises(ValueError, match=r"average=.* must lie in \(0, 1\]"):
        built(make, p, average=average)


@pytest.mark.parametrize("make", [ClippedScion, Scion, GGNC, S3CG])
@pytest.mark.parametrize("option", ["nesterov", "average", "lazy"])
def test_settings_of_another_type(make, option):
    if option == "lazy" and make in (GGNC, S3CG):
        pytest.skip("one norm over all has no parts")
    p = nn.Parameter(torch.ones(3))
    wanted = "must be a plain number" if option == "average" else "must be True or False"
    with pytest.raises(TypeError, match=f"{option}='yes' {wanted}"):
        built(make, p, **{option: "yes"})
    if option != "average":
        with pytest.raises(TypeError, match=f"{option}=1 {wanted}"):
            built(make, p, **{option: 1})


def built(make, p, **options):
    if make in (GGNC, S3CG):
        if make is S3CG:
            options["beta"] = 1.0
        return make([p], gamma=0.1, rho=1.0, norm=Sign(False), **options)
    return make([p], 0.1, **({"rho": 1.0} if make is ClippedScion else {}), **options)


@pytest.mark.parametrize("option", ["nesterov", "average", "lazy"])
def test_in_a_group_they_are_refused_with_what_to_do(option):
    p = nn.Parameter(torch.ones(3))
    with pytest.raises(TypeError, match=f"unknown key '{option}' .*: pass {option}="):
        Scion([{"params": [p], option: True}], 0.1)


def test_one_average_over_all_groups():
    model = build()
    optimizer = recipe(model, 0.2)
    optimizer.param_groups[1]["average"] = 0.3
    before = bits(model)
    loss(model, 0).backward()
    with pytest.raises(ValueError, match="average is one number over all groups"):
        optimizer.step()
    assert same(before, bits(model))
    for group in optimizer.param_groups:
        group["average"] = 1.0  # a longer window from here on
    train(model, optimizer, 3)


@pytest.mark.parametrize("row", [r for r in AVERAGED if r.layered], ids=str)
def test_a_search_for_lr_leaves_the_average_as_it_was(row):
    model, other = build(), build()
    optimizer, plain = row(row.groups(model)), row(row.groups(other))
    for m, o in ((model, optimizer), (other, plain)):
        train(m, o, 3)
    weights, kept = bits(model), averages(model, optimizer)
    count = iter(range(100, 200))

    def closure():
        optimizer.zero_grad()
        value = loss(model, next(count))
        value.backward()
        return value

    find_lr(optimizer, closure, low=1e-3, high=0.5, steps=20)
    assert same(weights, bits(model))
    assert same(kept, averages(model, optimizer))
    for m, o in ((model, optimizer), (other, plain)):
        train(m, o, 3, start=3)
    assert same(averages(model, optimizer), averages(other, plain))


@every
def test_a_probe_changes_neither_steps_nor_averages(row):
    model, other = build(), build()
    optimizer, plain = row(row.groups(model)), row(row.groups(other))
    probe = SmoothnessProbe(optimizer, every=2)
    for step in range(6):

        def closure(step=step):
            optimizer.zero_grad()
            value = loss(model, step)
            value.backward()
            return value

        probe.step(closure)
        train(other, plain, 1, start=step)
    assert len(probe.samples()["step"]) == 3
    assert same(bits(model), bits(other))
    assert same(averages(model, optimizer), averages(other, plain))
