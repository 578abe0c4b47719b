"""Small equal parameters are stepped together; nothing of that may be seen."""

import copy
import gc
import weakref

import pytest
import torch
from torch import nn

from normball import ClippedScion
from normball.norms import RMS, Euclidean, Sign, Spectral


def parameters(shape=(3, 4)):
    generator = torch.Generator().manual_seed(3)
    return [nn.Parameter(torch.randn(shape, generator=generator).double()) for _ in range(7)]


def together(params, norm, **options):
    return ClippedScion([{"params": params, "norm": norm}], 0.03, rho=2.0, **options)


def apart(params, norm, **options):
    """A group for every parameter: none is stacked with another."""
    return ClippedScion([{"params": [p], "norm": norm} for p in params], 0.03, rho=2.0, **options)


def fill(params, seed, missing=()):
    """Give new gradients to all but some; one is zero."""
    generator = torch.Generator().manual_seed(seed)
    for i, p in enumerate(params):
        grad = torch.randn(p.shape, generator=generator).double() * (i != 2)
        p.grad = None if i in missing else grad


def close(a, b):
    return all(torch.allclose(x, y, rtol=1e-12, atol=1e-12) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("norm", [RMS(), Euclidean(), Sign(), Spectral()], ids=str)
@pytest.mark.parametrize("constrained", [False, True])
@pytest.mark.filterwarnings("ignore:.*starts outside")
def test_together_is_one_by_one(norm, constrained):
    """Also as gradients come and go, and where the state is loaded, replaced or changed."""
    ours, theirs = parameters(), parameters()
    one = together(ours, norm, constrained=constrained)
    two = apart(theirs, norm, constrained=constrained)
    for step, missing in enumerate([(), (), (1, 5), (1, 5), (), (0, 1, 2, 3, 4, 5), (), ()]):
        fill(ours, step, missing)
        fill(theirs, step, missing)
        one.step()
        two.step()
        if step == 3:
            one.load_state_dict(copy.deepcopy(one.state_dict()))
        if step == 4:
            for optimizer, params in ((one, ours), (two, theirs)):
                optimizer.state[params[3]]["momentum"] = torch.ones(3, 4).double()
                optimizer.state[params[4]]["momentum"].zero_()
        assert close(ours, theirs)
        assert close(
            [one.state[p]["momentum"] for p in ours if p in one.state],
            [two.state[p]["momentum"] for p in theirs if p in two.state],
        )


def test_a_parameter_list_that_is_changed_is_seen():
    ours, theirs = parameters(), parameters()
    one, two = together(ours, RMS()), apart(theirs, RMS())
    for step in range(3):
        fill(ours, step)
        fill(theirs, step)
        if step == 1:  # as pruning does
            del one.param_groups[0]["params"][2], two.param_groups[2]
        one.step()
        two.step()
    assert close(ours, theirs)


def test_settings_that_are_changed_are_seen():
    ours, theirs = parameters(), parameters()
    one, two = together(ours, RMS()), apart(theirs, RMS())
    for step in range(4):
        fill(ours, step)
        fill(theirs, step)
        for group in one.param_groups + two.param_groups:
            group.update(radius=1.0 + step, alpha=0.5 / (1 + step), lr=0.1 / (1 + step))
            group["norm"] = Sign() if step == 2 else RMS()
        one.step()
        two.step()
    assert close(ours, theirs)


def test_copies_share_nothing():
    params = parameters()
    optimizer = together(params, RMS())
    fill(params, 0)
    optimizer.step()
    others, other = copy.deepcopy((params, optimizer))
    fill(params, 1)
    optimizer.step()
    fill(others, 2)
    other.step()
    fill(others, 3)
    again, reference = parameters(), parameters()
    one, two = together(again, RMS()), together(reference, RMS())
    for seed in (0, 2):
        fill(again, seed)
        one.step()
    for seed in (0, 1):
        fill(reference, seed)
        two.step()
    assert all(torch.equal(p, q) for p, q in zip(others, again, strict=True))
    assert all(torch.equal(p, q) for p, q in zip(params, reference, strict=True))


@pytest.mark.parametrize("size", [(3, 4), (200, 200)], ids=["small", "large"])
def test_gradients_are_let_go(size):
    params = parameters(size)
    optimizer = together(params, RMS())
    fill(params, 0)
    seen = [weakref.ref(p.grad) for p in params]
    optimizer.step()
    optimizer.zero_grad()
    gc.collect()
    assert all(ref() is None for ref in seen)


def test_lengths_of_a_stack_over_the_whole_range():
    """Against each on its own: zeros, NaN, infinity, both ends of the range."""
    x = torch.randn(6, 2, 3)
    x[1] = 0
    x[2, 0, 1] = float("nan")
    x[3, 1, 1] = float("inf")
    x[4] *= 1e-42
    x[5] = 1e38 * x[5].sign()
    for norm in (RMS(), Euclidean()):
        alone = [norm.lmo_and_dual(one) for one in x]
        lmo, dual = norm.stacked_lmo_and_dual(x)
        assert torch.allclose(lmo, torch.stack([v for v, _ in alone]), rtol=1e-6, equal_nan=True)
        assert dual.isnan()
        good = [0, 1, 4, 5]
        _, dual = norm.stacked_lmo_and_dual(x[good])
        expected = sum(float(alone[i][1]) for i in good)
        assert float(dual) == pytest.approx(min(expected, torch.finfo(torch.float32).max), rel=1e-6)


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("rho", [1.0, "auto"])
def test_a_model_that_changes_its_dtype_between_steps(rho, whole):
    """`model.float()` keeps the parameters and changes their data: as a fresh step would go."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(*[torch.nn.Linear(8, 8) for _ in range(3)]).bfloat16()
    optimizer = ClippedScion(model.parameters(), 0.02, rho=rho)

    def step(network, stepper):
        for i, p in enumerate(network.parameters()):
            p.grad = torch.full_like(p, 0.1 * (i + 1))
        stepper.step()

    for _ in range(3):
        step(model, optimizer)
    (model if whole else model[0]).float()
    # A copy knows nothing of the steps before but its state.
    twin, copied = copy.deepcopy((model, optimizer))
    for _ in range(2):
        step(model, optimizer)
        step(twin, copied)
    assert model[0].weight.dtype == torch.float32
    assert model[2].weight.dtype == (torch.float32 if whole else torch.bfloat16)
    assert all(
        torch.equal(p, q) for p, q in zip(model.parameters(), twin.parameters(), strict=True)
    )
