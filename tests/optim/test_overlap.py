"""Steps whose minimisers were computed during the backward pass: the same bits as without."""

import copy
import threading
from dataclasses import dataclass

import pytest
import torch
from torch import nn

from normball import GGNC, ClippedScion, Scion, param_groups
from normball.norms import RMS, Euclidean, Spectral
from normball.optim.overlap import Overlap
from normball.polar import Auto
from tests.optim.network import bits, build, loss, same
from tests.optim.optimizers import LAYERED, MEASURED

pytestmark = pytest.mark.filterwarnings("ignore:.*(starts|is) outside")


@pytest.fixture(autouse=True)
def taken(monkeypatch):
    """How many updates every step took; it waits for them, so that no speed decides."""
    counts, take = [], Overlap.take

    def counted(self, *args):
        for _, future in self._begun.values():
            future.exception()
        counts.append(take(self, *args))
        return counts[-1]

    def number():
        return [len(found) for found in counts]

    monkeypatch.setattr(Overlap, "take", counted)
    return number


def trained(optimizer, model, losses, overlapped, change=None):
    """Return weights, state and metrics after a step for each list of losses in `losses`."""
    kept = {}
    for step, passes in enumerate(losses):
        optimizer.zero_grad()
        for micro in passes[:-1]:
            micro(model).backward()
        found = passes[-1](model)
        if overlapped:
            with optimizer.overlap_backward():
                found.backward()
        else:
            found.backward()
        if change is not None:
            change(step, model, optimizer)
        optimizer.step()
        kept |= {f"{step} {k}": v.reshape(-1).clone() for k, v in optimizer.metrics().items()}
    for i, entry in optimizer.state_dict()["state"].items():
        kept |= {f"{i} {k}": v for k, v in entry.items()}
    return bits(model) | kept


def on(step, count=1):
    return [lambda model, i=i: loss(model, 10 * step + i) / count for i in range(count)]


def assert_same(make, change=None, steps=6, count=1, new=lambda: build(torch.float32)):
    losses = [on(step, count) for step in range(steps)]
    found = []
    for overlapped in (True, False):
        model = new()
        found.append(trained(make(model), model, losses, overlapped, change))
    assert same(*found)


KINDS = [
    {},
    {"reuse_grad": True},
    {"maximize": True},
    {"alpha": 1.0},
    {"state_dtype": torch.bfloat16, "reuse_grad": True},
    {"state_dtype": torch.int8},
]


@pytest.mark.parametrize("options", KINDS, ids=str)
@pytest.mark.parametrize("row", LAYERED + MEASURED, ids=str)
def test_the_same_bits(row, options, taken):
    if row in MEASURED and "alpha" in options:
        options = {"alpha": 0.9}  # a measured threshold needs momentum
    assert_same(lambda model: row(row.groups(model, Auto()), 0.02, **options))
    # Both kernels; the first step has nothing to take.
    assert taken() == [2] * 5


def clipped(step, model, optimizer):
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1e-2)


def replaced(step, model, optimizer):
    for p in model.parameters():
        p.grad = 0.5 * p.grad


def other_alpha(step, model, optimizer):
    optimizer.param_groups[1]["alpha"] = 0.3 + 0.1 * step  # that of one kernel


def other_momentum(step, model, optimizer):
    state = optimizer.state[model.conv1.weight]
    if state:
        state["momentum"].mul_(0.5)


def loaded(step, model, optimizer):
    optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))


def almost_none(step, model, optimizer):
    for p in model.parameters():
        if step == 3 and p is not model.gain.bias:
            p.grad = None


def infinite(step, model, optimizer):
    if step == 3:
        model.gain.bias.grad[0] = torch.inf


def other_lr(step, model, optimizer):
    for group in optimizer.param_groups:
        group["lr"] *= 0.5
        group["rho"] *= 2


@pytest.mark.parametrize(
    ("change", "numbers"),
    [
        (clipped, [0] * 5),
        (replaced, [0] * 5),
        (other_alpha, [1] * 5),
        (other_momentum, [1] * 5),
        (loaded, [0] * 5),
        (almost_none, [2, 2, 0, 0, 2]),  # after it, the step before had no kernels
        (infinite, [2, 2, 0, 2, 2]),
        (other_lr, [2] * 5),  # minimisers do not depend on it
    ],
)
def test_what_changed_after_the_pass_is_computed_again(change, numbers, taken):
    def make(model):
        return ClippedScion(LAYERED[2].groups(model, Auto()), 0.02, rho=1.5)

    assert_same(make, change)
    assert taken() == numbers


def weights_moved(step, model, optimizer):
    with torch.no_grad():
        model.conv1.weight.mul_(0.9)


def test_weights_matter_to_a_constrained_step(taken):
    def make(model):
        return ClippedScion(LAYERED[2].groups(model, Auto()), 0.02, rho=1.5, constrained=True)

    assert_same(make, weights_moved)
    assert taken() == [1] * 5


def test_the_last_of_several_passes(taken):
    assert_same(lambda model: ClippedScion(LAYERED[2].groups(model), 0.02, rho=1.5), count=3)
    assert taken() == [2] * 5


def test_all_passes_in_the_block(taken):
    """Each begins anew; what holds is the last."""
    found = []
    for block in (True, False):
        model = build(torch.float32)
        optimizer = ClippedScion(LAYERED[2].groups(model), 0.02, rho=1.5)
        for step in range(4):
            optimizer.zero_grad()
            micro = on(step, 3)
            if block:
                with optimizer.overlap_backward():
                    for one in micro:
                        one(model).backward()
            else:
                for one in micro:
                    one(model).backward()
            optimizer.step()
        found.append(bits(model))
    assert same(*found)
    assert taken() == [2] * 3


class Stack(nn.Module):
    """Equal layers, which are one bucket, one of them used twice."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(11, 16)
        self.blocks = nn.ModuleList(nn.Linear(16, 16) for _ in range(3))
        self.last = nn.Linear(16, 5)

    def forward(self, tokens):
        x = torch.nn.functional.one_hot(tokens, 11).float().mean(1)
        x = torch.tanh(self.first(x))
        for block in [*self.blocks, self.blocks[0]]:
            x = x + torch.tanh(block(x))
        return self.last(x)


def stack():
    torch.manual_seed(0)
    return Stack()


@pytest.mark.parametrize("options", KINDS, ids=str)
def test_equal_layers_and_shared_ones(options, taken):
    def make(model):
        return ClippedScion(param_groups(model), 0.02, rho=1.5, average=0.1, **options)

    assert_same(make, new=stack)
    # One bucket of three layers, and the first; the last layer is measured row by row.
    assert taken() == [2] * 5


def wide():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(11, 160), nn.ReLU(), nn.Linear(160, 300), nn.ReLU(), nn.Linear(300, 200),
        nn.ReLU(), nn.Linear(200, 5),
    )  # fmt: skip


@pytest.mark.parametrize("options", KINDS, ids=str)
def test_large_layers(options, taken):
    found = []
    for overlapped in (True, False):
        model = wide()
        optimizer = ClippedScion(param_groups(model), 0.02, rho=1.5, average=0.1, **options)
        losses = [[lambda model: model(torch.eye(11)).square().mean()]] * 3
        found.append(trained(optimizer, model, losses, overlapped))
    assert same(*found)
    assert taken() == [3] * 2


def test_layers_come_and_go(taken):
    def change(step, model, optimizer):
        model.blocks[1].requires_grad_(step % 2 == 0)

    def make(model):
        return ClippedScion(param_groups(model), 0.02, rho=1.5)

    assert_same(make, change, new=stack)


def test_it_runs_while_the_pass_runs():
    """The pass waits, before its last part, for the minimiser of the layer that came first."""
    reached, waited = threading.Event(), []

    class Wait(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, grad):
            waited.append(reached.wait(60))
            return grad

    @dataclass(frozen=True)
    class Tell(Spectral):
        def lmo_and_dual(self, d):
            reached.set()
            return super().lmo_and_dual(d)

    first, last = nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)
    groups = [{"params": [first.weight], "norm": RMS()}, {"params": [last.weight], "norm": Tell()}]
    optimizer = ClippedScion(groups, 0.1, rho=1.0)
    last(first(torch.ones(1, 4))).sum().backward()
    optimizer.step()
    optimizer.zero_grad()
    reached.clear()
    with optimizer.overlap_backward():
        last(Wait.apply(first(torch.ones(1, 4)))).sum().backward()
    assert waited == [True]


def test_what_fails_fails_in_the_step():
    @dataclass(frozen=True)
    class Fails(Spectral):
        armed: list = None

        def lmo_and_dual(self, d):
            if self.armed:
                raise ArithmeticError("no minimiser")
            return super().lmo_and_dual(d)

    layer, armed = nn.Linear(4, 4, bias=False), []
    optimizer = Scion([{"params": [layer.weight], "norm": Fails(armed=armed)}], 0.1)
    layer(torch.ones(1, 4)).sum().backward()
    optimizer.step()
    before, armed[:] = bits(layer), [True]
    momentum = optimizer.state[layer.weight]["momentum"].clone()
    with optimizer.overlap_backward():
        layer(torch.ones(1, 4)).sum().backward()
    with pytest.raises(ArithmeticError, match="no minimiser"):
        optimizer.step()
    assert same(bits(layer), before)
    assert torch.equal(optimizer.state[layer.weight]["momentum"], momentum)


def interrupted(model):
    loss(model, 7).backward()
    raise KeyboardInterrupt


def test_an_interrupted_pass_leaves_nothing(taken):
    model = stack()
    optimizer = ClippedScion(param_groups(model), 0.02, rho=1.5)
    trained(optimizer, model, [on(0)], True)
    twin, other = copy.deepcopy((model, optimizer))
    with pytest.raises(KeyboardInterrupt), optimizer.overlap_backward():
        interrupted(model)
    for p, q in zip(model.parameters(), twin.parameters(), strict=True):
        q.grad = p.grad.clone()
    optimizer.step()
    other.step()
    assert same(bits(model), bits(twin))
    assert taken() == [0]
    assert not model.blocks[0].weight._post_accumulate_grad_hooks


def test_a_copy_and_a_second_step_take_nothing(taken):
    model = stack()
    optimizer = ClippedScion(param_groups(model), 0.02, rho=1.5)
    trained(optimizer, model, [on(0)], True)
    with optimizer.overlap_backward():
        loss(model, 7).backward()
    twin, other = copy.deepcopy((model, optimizer))
    for p, q in zip(model.parameters(), twin.parameters(), strict=True):
        q.grad = p.grad.clone()
    for one in (optimizer, other):
        one.step()
        one.step()
    assert same(bits(model), bits(twin))
    assert taken() == [2]


def test_a_compiled_step_computes_everything(taken):
    found = []
    for compiled in (True, False):
        torch.compiler.reset()
        model = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 3)).double()
        with torch.no_grad():
            for p in model.parameters():
                p.copy_(torch.linspace(-1, 1, p.numel()).view_as(p).cos())
        optimizer = ClippedScion(param_groups(model), 0.02, rho=1.5)
        step = torch.compile(optimizer.step, backend="eager") if compiled else optimizer.step
        for _ in range(3):
            optimizer.zero_grad()
            with optimizer.overlap_backward():
                model(torch.eye(5).double()).square().mean().backward()
            step()
        found.append(torch.cat([x.flatten() for x in bits(model).values()]))
    assert torch.allclose(*found, rtol=1e-9, atol=0)
    assert taken() == [1, 1]  # by the other


def linear(**options):
    return ClippedScion([nn.Parameter(torch.ones(3, 3))], 0.1, radius=1.0, rho=1.0, **options)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: GGNC([nn.Parameter(torch.ones(3))], gamma=0.1, rho=1.0, norm=Euclidean()),
         "until all gradients"),
        (lambda: linear(capturable=True), "captured"),
        (lambda: ClippedScion([nn.Parameter(torch.ones(3, 3, device="meta"))], 0.1, radius=1.0),
         "is on meta"),
    ],
)  # fmt: skip
def test_refused(make, words):
    with pytest.raises(RuntimeError, match=words), make().overlap_backward():
        raise AssertionError


def test_refused_while_the_average_is_in_the_model():
    optimizer = linear(average=0.1)
    optimizer.eval()
    with pytest.raises(RuntimeError, match="call optimizer"), optimizer.overlap_backward():
        raise AssertionError
