"""The limits in which the methods must become others, with those others as oracles."""

import copy
import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from normball import ClippedScion, Scion
from normball.norms import Euclidean, Sign, Spectral
from normball.polar import NewtonSchulz
from tests import needs
from tests.optim.network import bits, build, groups, loss, same, train


@pytest.mark.parametrize("constrained", [False, True])
@pytest.mark.parametrize("variant", [1, 2])
def test_a_vanishing_threshold_is_scion(constrained, variant):
    a, b = build(), build()
    options = {"alpha": 0.2, "constrained": constrained}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        seen = train(a, ClippedScion(groups(a), 0.01, rho=1e-12, variant=variant, **options), 20)
        train(b, Scion(groups(b), 0.01, **options), 20)
    assert all(float(m["step_factor"]) == 1 for m in seen)
    assert same(bits(a), bits(b))


def test_a_threshold_never_reached_is_steepest_descent():
    lr, rho = 0.3, 1e4
    model = build()
    made = groups(model)
    optimizer = ClippedScion(made, lr, rho=rho, alpha=1.0)
    for i in range(10):
        optimizer.zero_grad()
        loss(model, i).backward()
        pairs = [(p, g["norm"], g["radius"]) for g in made for p in g["params"]]
        total = sum(r * float(n.dual_norm(p.grad)) for p, n, r in pairs)
        # sharp of the product norm: the sum of dual norms times each block's minimiser.
        expected = [p + lr / rho * total * r * n.lmo(p.grad) for p, n, r in pairs]
        optimizer.step()
        for (p, _, _), x in zip(pairs, expected, strict=True):
            assert torch.allclose(p, x, rtol=0, atol=1e-12)


@pytest.mark.parametrize("size", [1e-3, 1.0, 1e3])
def test_one_euclidean_block_is_clipped_gradient_descent(size):
    """Up to the 1e-6 that torch adds to the norm."""
    lr, rho = 0.05, 1.0
    a = nn.Parameter(torch.randn(40, dtype=torch.float64))
    b = copy.deepcopy(a)
    ours = ClippedScion([{"params": [a], "norm": Euclidean()}], lr, rho=rho, alpha=1.0)
    sgd = torch.optim.SGD([b], lr / rho)
    for _ in range(10):
        grad = size * torch.randn(40, dtype=torch.float64)
        a.grad, b.grad = grad.clone(), grad.clone()
        before = b.detach().clone()
        ours.step()
        torch.nn.utils.clip_grad_norm_([b], rho)
        sgd.step()
        moved = (b - before).norm()
        assert (a - b).norm() <= (1.01e-6 / rho) * moved * 10


def test_euclidean_layers_in_the_max_product_clip_by_the_sum_of_norms():
    """Not what clip_grad_norm_ does, which has one Euclidean norm over all layers."""
    layers = [nn.Parameter(torch.randn(n, dtype=torch.float64)) for n in (3, 5)]
    optimizer = ClippedScion([{"params": layers, "norm": Euclidean()}], 0.1, rho=100.0, alpha=1.0)
    for p in layers:
        p.grad = torch.randn_like(p)
    optimizer.step()
    expected = sum(float(p.grad.norm()) for p in layers)
    assert float(optimizer.metrics()["dual_norm"]) == pytest.approx(expected)


def test_sign_is_signsgd_with_a_moving_average():
    p = nn.Parameter(torch.randn(6, 4, dtype=torch.float64))
    q, average = p.detach().clone(), torch.zeros(6, 4, dtype=torch.float64)
    group = {"params": [p], "norm": Sign(normalized=False)}
    optimizer = Scion([group], 0.01, alpha=0.3, nesterov=False)
    for _ in range(20):
        p.grad = torch.randn_like(p)
        average = 0.7 * average + 0.3 * p.grad
        q -= 0.01 * average.sign()
        optimizer.step()
    assert torch.allclose(p, q, atol=1e-14)


def test_frobenius_layers_are_normalised_sgd():
    layers = [nn.Parameter(torch.randn(s, dtype=torch.float64)) for s in ((3, 4), (5,))]
    copies = [p.detach().clone() for p in layers]
    optimizer = Scion([{"params": layers, "norm": Euclidean()}], 0.05, alpha=1.0)
    for _ in range(5):
        for p, q in zip(layers, copies, strict=True):
            p.grad = torch.randn_like(p)
            q -= 0.05 * p.grad / p.grad.norm()
        optimizer.step()
    for p, q in zip(layers, copies, strict=True):
        assert torch.allclose(p, q, atol=1e-14)


class Float32(torch.overrides.TorchFunctionMode):
    """Take out the cast to bfloat16 of torch's own Newton-Schulz."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        # By a method of that name, or since torch 2.15 by an argument.
        if func is torch.Tensor.bfloat16 or kwargs.get("dtype") is torch.bfloat16:
            return args[0].clone()
        return func(*args, **kwargs)


@needs.muon
@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("shape", [(24, 16), (16, 24), (16, 16)])
def test_spectral_is_muon(shape, nesterov):
    """The direction of torch.optim.Muon without decay, the same Newton-Schulz."""
    lr, momentum = 0.02, 0.9
    a = nn.Parameter(torch.randn(shape))
    b = copy.deepcopy(a)
    group = {"params": [a], "norm": Spectral("plain", NewtonSchulz(steps=5))}
    ours = Scion([group], lr, alpha=1 - momentum, nesterov=nesterov)
    muon = torch.optim.Muon([b], lr, momentum=momentum, nesterov=nesterov, weight_decay=0)
    for _ in range(5):
        grad = torch.randn(shape)
        a.grad, b.grad = grad.clone(), grad.clone()
        old_a, old_b = a.detach().clone(), b.detach().clone()
        ours.step()
        with Float32():
            muon.step()
        step_a, step_b = a.detach() - old_a, b.detach() - old_b
        # Muon scales by sqrt(max(1, rows / columns)) on top.
        step_b /= max(1, shape[0] / shape[1]) ** 0.5
        assert float((step_a - step_b).norm() / step_b.norm()) < 1e-4


def test_alpha_one_needs_no_state():
    model = build()
    optimizer = ClippedScion(groups(model), 0.01, rho=1.0, alpha=1.0)
    train(model, optimizer, 2)
    assert not optimizer.state


def test_a_linear_problem_steps_by_hand():
    """On one weight the rule is arithmetic: D = r|d|, x moves lr min(1, D / rho) r."""
    p = nn.Parameter(torch.tensor([2.0], dtype=torch.float64))
    group = {"params": [p], "radius": 3.0}
    optimizer = ClippedScion([group], 0.1, rho=6.0, alpha=0.5, nesterov=False)
    F.mse_loss(p, torch.zeros(1, dtype=torch.float64)).backward()  # gradient 4
    optimizer.step()  # d = 2, D = 6: just not clipped
    assert p.item() == pytest.approx(2 - 0.1 * 1 * 3)
    optimizer.step()  # d = 3, D = 9: clipped
    assert p.item() == pytest.approx(2 - 2 * 0.1 * 3)
    assert float(optimizer.metrics()["dual_norm"]) == pytest.approx(9)
