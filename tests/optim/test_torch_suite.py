"""What torch's own tests of its optimizers ask, asked of ours, written anew.

Ours are entered as `OptimizerInfo` of `torch.testing`, beside torch's SGD and AdamW, which show
what is common to all optimizers.
"""

import copy
import inspect
import io
import math
import pickle
import warnings

import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler

from normball import GGNC, S3CG, ClippedScion, Scion
from normball.norms import Euclidean
from tests.optim.network import bits, same

common = pytest.importorskip("torch.testing._internal.common_optimizers")
Info, Input = common.OptimizerInfo, common.OptimizerInput


def layered(device, dtype=None):
    return [
        Input(params=None, kwargs={"lr": 0.01}, desc="numbers"),
        Input(params=None, kwargs={"lr": torch.tensor(0.01)}, desc="lr in a tensor"),
        Input(params=None, kwargs={"lr": torch.tensor([0.01])}, desc="lr in a tensor of one entry"),
        Input(params=None, kwargs={"lr": 0.01, "alpha": 1.0}, desc="no momentum"),
        Input(params=None, kwargs={"lr": 0.01, "maximize": True}, desc="maximize"),
        Input(params=None, kwargs={"lr": 0.01, "constrained": True, "radius": 3.0}, desc="ball"),
        Input(params=None, kwargs={"lr": 0.01, "average": 0.1}, desc="average"),
        Input(params=None, kwargs={"lr": 0.01, "nesterov": False}, desc="no look-ahead"),
        Input(params=None, kwargs={"lr": 0.01, "capturable": True}, desc="capturable"),
        Input(params=None, kwargs={"lr": 0.01, "reuse_grad": True}, desc="reuse_grad"),
    ]


def clipped(device, dtype=None):
    fixed = [Input(None, {**x.kwargs, "rho": 1.0}, x.desc) for x in layered(device, dtype)]
    measured = [Input(None, {"lr": 0.01}, "measured"), Input(None, {}, "defaults")]
    return fixed + measured


def joint(device, dtype=None):
    base = {"gamma": 0.01, "rho": 1.0, "norm": Euclidean()}
    return [
        Input(params=None, kwargs=base, desc="numbers"),
        Input(params=None, kwargs={**base, "alpha": 0.1}, desc="momentum"),
        Input(params=None, kwargs={**base, "alpha": 0.1, "maximize": True}, desc="maximize"),
    ]


def in_ball(device, dtype=None):
    return [Input(None, {**x.kwargs, "beta": 50.0}, x.desc) for x in joint(device, dtype)]


def sgd(device, dtype=None):
    return [Input(params=None, kwargs={"lr": 0.01, "momentum": 0.9}, desc="momentum")]


def adamw(device, dtype=None):
    return [Input(params=None, kwargs={"lr": 0.01}, desc="numbers")]


def info(cls, inputs):
    options = {
        "optim_inputs_func": inputs,
        "supported_impls": (),
        "not_og_supported_flags": (),
        "supports_complex": False,
        "has_capturable_arg": cls is not torch.optim.SGD,
    }
    known = inspect.signature(Info.__init__).parameters  # they differ between versions of torch
    return Info(cls, **{name: value for name, value in options.items() if name in known})


INFOS = [
    info(ClippedScion, clipped),
    info(Scion, layered),
    info(GGNC, joint),
    info(S3CG, in_ball),
    info(torch.optim.SGD, sgd),
    info(torch.optim.AdamW, adamw),
]
OURS = (ClippedScion, Scion, GGNC, S3CG)
CASES = [(i.optim_cls, x.kwargs, x.desc) for i in INFOS for x in i.optim_inputs_func("cpu")]
every = pytest.mark.parametrize(
    ("make", "options"),
    [(make, options) for make, options, _ in CASES],
    ids=[f"{make.__name__}-{desc}" for make, _, desc in CASES],
)
kinds = pytest.mark.parametrize(
    ("make", "options"),
    [(i.optim_cls, i.optim_inputs_func("cpu")[0].kwargs) for i in INFOS],
    ids=[i.optim_cls.__name__ for i in INFOS],
)
pytestmark = pytest.mark.filterwarnings("ignore:.*starts outside", "ignore:the start .* is outside")


def tensors(dtype=torch.float64):
    torch.manual_seed(0)
    shapes = ((4, 3), (4,), (2, 2))
    return nn.ParameterList(nn.Parameter(torch.randn(shape, dtype=dtype)) for shape in shapes)


def built(make, params, options):
    """Numbers of the options are copied, because a schedule changes them in place."""
    options = {k: v.clone() if isinstance(v, torch.Tensor) else v for k, v in options.items()}
    return make(params, **options)


def backward(params, step=0):
    """Set the gradients of a convex function whose target moves a little."""
    for i, p in enumerate(params):
        p.grad = (p.detach() - 0.1 * math.sin(step + i)).clone()


def train(optimizer, params, steps, start=0):
    for step in range(start, start + steps):
        backward(params, step)
        optimizer.step()


@every
def test_it_descends_or_ascends(make, options):
    params = tensors()
    optimizer = built(make, params, options)
    before = sum(float(p.detach().square().sum()) for p in params)
    train(optimizer, params, 30)
    if hasattr(optimizer, "eval"):
        optimizer.eval()
    after = sum(float(p.detach().square().sum()) for p in params)
    assert (after > before) == bool(options.get("maximize"))


@every
def test_a_state_loads_and_goes_on_bit_for_bit(make, options):
    params = tensors()
    optimizer = built(make, params, options)
    train(optimizer, params, 5)
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    twins = copy.deepcopy(params)
    other = built(make, twins, options)
    other.load_state_dict(torch.load(file, weights_only=True))
    train(optimizer, params, 5, 5)
    train(other, twins, 5, 5)
    assert same(bits(params), bits(twins))


@every
@pytest.mark.parametrize("way", ["deepcopy", "pickle"])
def test_copies_go_on_bit_for_bit(make, options, way):
    params = tensors()
    optimizer = built(make, params, options)
    train(optimizer, params, 3)
    if way == "deepcopy":
        twins, other = copy.deepcopy((params, optimizer))
    else:
        twins, other = pickle.loads(pickle.dumps((params, optimizer)))
    train(optimizer, params, 3, 3)
    train(other, twins, 3, 3)
    assert same(bits(params), bits(twins))
    assert optimizer.defaults.keys() <= other.defaults.keys()


@kinds
@pytest.mark.parametrize("saved_names", [True, False])
@pytest.mark.parametrize("own_names", [True, False])
def test_a_state_loads_with_and_without_names(make, options, saved_names, own_names):
    def build(named):
        params = tensors()
        given = [(f"layer{i}", p) for i, p in enumerate(params)] if named else params
        return params, built(make, given, options)

    params, optimizer = build(saved_names)
    train(optimizer, params, 3)
    twins, other = build(own_names)
    for p, q in zip(params, twins, strict=True):
        q.data.copy_(p)
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    train(optimizer, params, 2, 3)
    train(other, twins, 2, 3)
    assert same(bits(params), bits(twins))
    if own_names and make in OURS:  # torch's take the saved names, or none
        assert other.param_groups[0]["param_names"] == ["layer0", "layer1", "layer2"]


@kinds
def test_options_of_groups_hold_for_their_group(make, options):
    if make in (GGNC, S3CG):
        pytest.skip("one step size over all groups")
    params = tensors()
    options = {k: v for k, v in options.items() if k != "lr"}
    groups = [{"params": params[:1], "lr": 0.0}, {"params": params[1:]}]
    optimizer = built(make, groups, {**options, "lr": 0.01})
    before = bits(params)
    train(optimizer, params, 2)
    assert torch.equal(params[0], before["0"])
    assert not torch.equal(params[1], before["1"])
    assert [group["lr"] for group in optimizer.param_groups] == [0.0, 0.01]


@every
def test_a_step_without_gradients_changes_nothing(make, options):
    params = tensors()
    optimizer = built(make, params, options)
    before = bits(params)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        optimizer.step()
    assert same(bits(params), before)
    assert not optimizer.state


@kinds
def test_zero_grad(make, options):
    params = tensors()
    optimizer = built(make, params, options)
    backward(params)
    optimizer.zero_grad(set_to_none=False)
    assert all(p.grad is not None and not p.grad.any() for p in params)
    optimizer.zero_grad()
    assert all(p.grad is None for p in params)


@kinds
def test_a_closure_is_called_once_with_gradients_on(make, options):
    params = tensors()
    optimizer = built(make, params, options)
    calls = []

    def closure():
        assert torch.is_grad_enabled()
        calls.append(1)
        optimizer.zero_grad()
        loss = sum(p.square().sum() for p in params)
        loss.backward()
        return loss

    loss = optimizer.step(closure)
    assert float(loss.detach()) > 0
    assert calls == [1]


@kinds
def test_hooks_of_steps(make, options):
    params = tensors()
    optimizer, seen = built(make, params, options), []
    before = optimizer.register_step_pre_hook(lambda *_: seen.append("before"))
    after = optimizer.register_step_post_hook(lambda *_: seen.append("after"))
    train(optimizer, params, 1)
    assert seen == ["before", "after"]
    before.remove()
    after.remove()
    train(optimizer, params, 1)
    assert len(seen) == 2


@kinds
def test_hooks_of_states(make, options):
    params = tensors()
    optimizer, seen = built(make, params, options), []
    optimizer.register_state_dict_pre_hook(lambda _: seen.append("before saving"))

    def after_saving(_, state):
        seen.append("after saving")
        state["note"] = 1
        return state

    def before_loading(_, state):
        seen.append("before loading")
        return {k: v for k, v in state.items() if k != "note"}

    optimizer.register_state_dict_post_hook(after_saving)
    optimizer.register_load_state_dict_pre_hook(before_loading)
    optimizer.register_load_state_dict_post_hook(lambda _: seen.append("after loading"))
    state = optimizer.state_dict()
    assert state["note"] == 1
    optimizer.load_state_dict(state)
    assert seen == ["before saving", "after saving", "before loading", "after loading"]


@kinds
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_other_dtypes_and_mixtures_train(make, options, dtype):
    params = tensors(dtype)
    params[2] = tensors(torch.float64)[2]
    optimizer = built(make, params, options)
    before = bits(params)
    train(optimizer, params, 4)
    for p, q in zip(params, before.values(), strict=True):
        assert torch.isfinite(p).all()
        assert not torch.equal(p, q)
        assert p.dtype == q.dtype


@kinds
@pytest.mark.parametrize("layout", ["transposed", "strided", "channels last"])
def test_tensors_that_are_not_contiguous_step_as_those_that_are(make, options, layout):
    torch.manual_seed(1)
    x = torch.randn(4, 6, 3, 3, dtype=torch.float64) if layout == "channels last" else None
    x = torch.randn(4, 6, dtype=torch.float64) if x is None else x
    other = {
        "transposed": lambda: x.mT.contiguous().mT,
        "strided": lambda: torch.zeros(4, 12, dtype=torch.float64)[:, ::2].copy_(x),
        "channels last": lambda: x.contiguous(memory_format=torch.channels_last),
    }[layout]()
    assert not other.is_contiguous()
    plain, apart = nn.Parameter(x.clone()), nn.Parameter(other)
    for p in (plain, apart):
        optimizer = built(make, [p], options)
        train(optimizer, [p], 4)
    assert torch.allclose(plain, apart, rtol=1e-9, atol=1e-12)


@kinds
def test_schedulers_go_on_after_loading(make, options):
    def build(params):
        optimizer = built(make, params, options)
        return optimizer, lr_scheduler.SequentialLR(
            optimizer,
            [
                lr_scheduler.LinearLR(optimizer, 0.1, 1.0, 3),
                lr_scheduler.ExponentialLR(optimizer, 0.5),
            ],
            [3],
        )

    params = tensors()
    optimizer, schedule = build(params)
    for step in range(2):
        train(optimizer, params, 1, step)
        schedule.step()
    twins = copy.deepcopy(params)
    other, again = build(twins)
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    again.load_state_dict(schedule.state_dict())
    for step in range(2, 6):
        train(optimizer, params, 1, step)
        train(other, twins, 1, step)
        schedule.step()
        again.step()
        assert float(optimizer.param_groups[0]["lr"]) == float(other.param_groups[0]["lr"])
    assert same(bits(params), bits(twins))


REFUSED = [
    (lambda p: p, TypeError, "iterable of tensors|should be an iterable"),
    (lambda _: [], ValueError, "empty parameter list"),
    (lambda p: [{"params": [p]}, {"params": [p]}], ValueError, "given twice|more than one"),
    (lambda p: [("a", p), nn.Parameter(torch.ones(1))], ValueError, "with/without names"),
    (lambda _: ["word"], TypeError, "can only optimize Tensors|not a tensor"),
    (lambda p: [p * 2], ValueError, "non-leaf|not a leaf"),
]


@kinds
@pytest.mark.parametrize(("params", "error", "match"), REFUSED, ids=range(len(REFUSED)))
def test_refusals_at_construction(make, options, params, error, match):
    p = nn.Parameter(torch.ones(2, 2))
    with pytest.raises(error, match=match):
        built(make, params(p), options)


@pytest.mark.parametrize("make", OURS)
@pytest.mark.parametrize("kind", ["complex", "sparse", "integer"])
def test_kinds_of_tensors_that_ours_refuse_by_name(make, kind):
    options = next(i for i in INFOS if i.optim_cls is make).optim_inputs_func("cpu")[0].kwargs
    tensor = {
        "complex": lambda: torch.ones(2, dtype=torch.complex64),
        "sparse": lambda: torch.eye(2).to_sparse(),
        "integer": lambda: torch.ones(2, dtype=torch.int64),
    }[kind]()
    p = nn.Parameter(tensor, requires_grad=kind != "integer")
    with pytest.raises((TypeError, ValueError), match=r"weight.*(complex|sparse|int64)"):
        built(make, [("weight", p)], options)


@pytest.mark.parametrize("make", OURS)
def test_the_state_is_cast_to_the_dtype_of_this_optimizer(make):
    options = next(i for i in INFOS if i.optim_cls is make).optim_inputs_func("cpu")[0].kwargs
    options = {**options, "alpha": 0.1}
    params, narrow = tensors(torch.float64), tensors(torch.float32)
    optimizer, other = built(make, params, options), built(make, narrow, options)
    train(optimizer, params, 2)
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for p, q in zip(params, narrow, strict=True):
        momentum = other.state[q]["momentum"]
        assert momentum.dtype == torch.float32
        assert torch.equal(momentum, optimizer.state[p]["momentum"].float())
