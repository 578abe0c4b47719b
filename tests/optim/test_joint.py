"""GGNC and S3CG: one norm over all parameters, in the paper's own parameters."""

import numpy as np
import pytest
import torch
from torch import nn

from normball import GGNC, S3CG, ClippedScion
from normball.norms import L1, RMS, Euclidean, Lp, Nuclear, Schatten, Sign, Spectral
from normball.polar import SVD
from tests.optim.network import build, loss

# Norm, norm of a vector, v = -lmo of a vector: the definitions in NumPy.
VECTOR = {
    "euclidean": (
        Euclidean(),
        lambda x: np.linalg.norm(x),
        lambda d: d / np.linalg.norm(d),
    ),
    "rms": (
        RMS(),
        lambda x: np.sqrt(np.mean(x**2)),
        lambda d: np.sqrt(d.size) * d / np.linalg.norm(d),
    ),
    "sign": (Sign(normalized=False), lambda x: np.abs(x).max(), np.sign),
    "l1": (
        L1(),
        lambda x: np.abs(x).sum(),
        lambda d: np.sign(d) * (np.arange(d.size) == np.abs(d).argmax()),
    ),
    "l3": (
        Lp(3.0),
        lambda x: (np.abs(x) ** 3).sum() ** (1 / 3),
        lambda d: np.sign(d) * (np.abs(d) / (np.abs(d) ** 1.5).sum() ** (1 / 1.5)) ** 0.5,
    ),
}


def concatenation(tensors):
    return np.concatenate([t.detach().numpy().ravel() for t in tensors])


def gradients(model, i):
    for p in model.parameters():
        p.grad = None
    loss(model, i).backward()
    return concatenation([p.grad for p in model.parameters()])


def estimates(model, alpha, steps=30):
    """Yield the gradient estimates of a run that stays where it starts."""
    d = 0.0
    for i in range(steps):
        d = (1 - alpha) * d + alpha * gradients(model, i)
        yield d


def middle(values):
    """Return a threshold that cuts some steps of a run and not others."""
    return 0.8 * float(np.median(list(values)))


@pytest.mark.parametrize("name", VECTOR)
@pytest.mark.parametrize("alpha", [1.0, 0.3])
def test_ggnc_is_algorithm_1_on_the_concatenation(name, alpha):
    norm, _, v_of = VECTOR[name]
    model = build()
    x, d = concatenation(model.parameters()), 0.0
    rho = middle([d @ v_of(d) for d in estimates(model, alpha)])
    gamma = 0.001 * np.abs(x).max() / rho / np.abs(v_of(gradients(model, 0))).max()
    optimizer = GGNC(model.parameters(), gamma=gamma, rho=rho, norm=norm, alpha=alpha)
    clipped = []
    for i in range(30):
        g = gradients(model, i)
        d = (1 - alpha) * d + alpha * g
        v = v_of(d)
        x = x - gamma * min(rho, d @ v) * v
        clipped.append(d @ v >= rho)
        optimizer.step()
        assert np.abs(concatenation(model.parameters()) - x).max() < 1e-11
        assert float(optimizer.metrics()["dual_norm"]) == pytest.approx(d @ v)
    assert 0 < sum(clipped) < 30


@pytest.mark.parametrize("name", VECTOR)
@pytest.mark.parametrize("variant", [1, 2])
def test_s3cg_is_algorithm_2_on_the_concatenation(name, variant):
    norm, norm_of, v_of = VECTOR[name]
    model = build()
    beta = 1.5 * norm_of(concatenation(model.parameters()))
    x, d, factors = concatenation(model.parameters()), 0.0, []
    alpha, ratios = 0.5, []
    for estimate in estimates(model, alpha):
        w = x + beta * v_of(estimate)
        ratios.append(estimate @ w / (norm_of(w) ** 2 if variant == 1 else 4 * beta**2))
    rho = middle(ratios)
    gamma = 0.001 / rho
    optimizer = S3CG(
        model.parameters(), gamma=gamma, rho=rho, beta=beta, norm=norm, alpha=alpha, variant=variant
    )
    for i in range(30):
        d = (1 - alpha) * d + alpha * gradients(model, i)
        w = x + beta * v_of(d)
        size = norm_of(w) ** 2 if variant == 1 else 4 * beta**2
        factors.append(d @ w / size / rho)
        x = x - gamma * min(rho, max(0, d @ w / size)) * w
        optimizer.step()
        assert np.abs(concatenation(model.parameters()) - x).max() < 1e-11
        assert norm_of(x) <= beta * (1 + 1e-12)
    assert min(factors) < 1 < max(factors), (min(factors), max(factors))


@pytest.mark.parametrize("rho", [0.05, 10.0])
def test_clipped_gradient_descent(rho):
    """clip_grad_norm_ and SGD, up to the 1e-6 in torch's denominator."""
    ours, theirs = build(), build()
    gamma = 0.1
    ggnc = GGNC(ours.parameters(), gamma=gamma, rho=rho, norm=Euclidean())
    sgd = torch.optim.SGD(theirs.parameters(), gamma)
    for i in range(20):
        for model in (ours, theirs):
            gradients(model, i)
        torch.nn.utils.clip_grad_norm_(theirs.parameters(), rho)
        ggnc.step()
        sgd.step()
    moved = np.linalg.norm(concatenation(theirs.parameters()) - concatenation(build().parameters()))
    apart = concatenation(theirs.parameters()) - concatenation(ours.parameters())
    assert np.linalg.norm(apart) < 50 * (1e-6 / rho) * moved


@pytest.mark.parametrize("norm", [Spectral(polar=SVD()), Nuclear(), Schatten(3.0), Sign()], ids=str)
def test_a_matrix_norm_takes_one_matrix(norm):
    w = nn.Parameter(torch.randn(4, 3, dtype=torch.float64))
    start, gamma, rho = w.detach().clone(), 0.1, 1e9
    optimizer = GGNC([w], gamma=gamma, rho=rho, norm=norm)
    w.grad = torch.randn_like(w)
    optimizer.step()
    assert torch.allclose(w, start - gamma * norm.sharp(w.grad))
    with pytest.raises(ValueError, match="norm of a single tensor, got 2"):
        GGNC([w, nn.Parameter(torch.ones(2, 2))], gamma=0.1, rho=1.0, norm=norm)
    with pytest.raises(ValueError, match="got 2"):
        optimizer.add_param_group({"params": [nn.Parameter(torch.ones(2, 2))]})
    assert len(optimizer.param_groups) == 1


def test_one_layer_agrees_with_clipped_scion():
    """With beta = 1 and one layer of radius 1 the two parameterisations meet."""
    for options in ({}, {"constrained": True, "variant": 1}, {"constrained": True, "variant": 2}):
        a = nn.Parameter(torch.full((4,), 0.5, dtype=torch.float64))
        b = nn.Parameter(a.detach().clone())
        lr, rho = 0.2, 0.8
        folded = 4 * rho if options.get("variant") == 2 else rho
        ours = ClippedScion(
            [{"params": [a], "norm": Lp(3.0)}], lr, rho=folded, alpha=1.0, **options
        )
        if options:
            joint = S3CG(
                [b], gamma=lr / rho, rho=rho, beta=1.0, norm=Lp(3.0), variant=options["variant"]
            )
            a.data.mul_(0.5), b.data.mul_(0.5)
        else:
            joint = GGNC([b], gamma=lr / rho, rho=rho, norm=Lp(3.0))
        for _ in range(10):
            a.grad = torch.randn_like(a)
            b.grad = a.grad.clone()
            ours.step()
            joint.step()
            assert torch.allclose(a, b, rtol=0, atol=1e-13)


def test_a_start_outside_the_common_ball():
    model = build()
    optimizer = S3CG(model.parameters(), gamma=0.1, rho=1.0, beta=0.5, norm=Euclidean())
    gradients(model, 0)
    with pytest.warns(UserWarning, match=r"the start \(9 parameters together\) is outside") as seen:
        optimizer.step()
    assert len(seen) == 1
    assert np.linalg.norm(concatenation(model.parameters())) <= 0.5 * (1 + 1e-9)


def test_a_parameter_without_gradient_in_a_common_ball():
    model = build()
    optimizer = S3CG(model.named_parameters(), gamma=0.1, rho=1.0, beta=50.0, norm=Euclidean())
    gradients(model, 0)
    model.head.bias.grad = None
    before = concatenation(model.parameters())
    with pytest.raises(ValueError, match=r"head\.bias has no gradient, .* common ball"):
        optimizer.step()
    assert np.array_equal(before, concatenation(model.parameters()))
    box = S3CG(model.parameters(), gamma=0.1, rho=1.0, beta=50.0, norm=Sign(normalized=False))
    box.step()
    assert float(box.metrics()["skipped"]) == 0


def test_refusals():
    p = nn.Parameter(torch.ones(2))
    with pytest.raises(ValueError, match=r"gamma \* rho=1\.2 must lie in \[0, 1\]"):
        S3CG([p], gamma=0.4, rho=3.0, beta=1.0, norm=Euclidean())
    with pytest.raises(ValueError, match=r"beta=0\.0"):
        S3CG([p], gamma=0.1, rho=1.0, beta=0.0, norm=Euclidean())
    with pytest.raises(ValueError, match="variant=0"):
        S3CG([p], gamma=0.1, rho=1.0, beta=1.0, norm=Euclidean(), variant=0)
    with pytest.raises(TypeError, match=r"did you mean Euclidean\(\)"):
        GGNC([p], gamma=0.1, rho=1.0, norm="euclidean")
    with pytest.raises(TypeError, match="unknown key 'norm'"):
        GGNC([{"params": [p], "norm": RMS()}], gamma=0.1, rho=1.0, norm=RMS())
    optimizer = GGNC(
        [{"params": [p]}, {"params": [nn.Parameter(torch.ones(3))]}], gamma=0.1, rho=1.0, norm=RMS()
    )
    optimizer.param_groups[1]["lr"] = 0.2
    p.grad = torch.ones(2)
    with pytest.raises(ValueError, match=r"gamma is one number .* \[0\.1, 0\.2\]"):
        optimizer.step()
    assert p.tolist() == [1, 1]


@pytest.mark.parametrize("variant", [1, 2])
def test_a_late_parameter_enters_the_ball_with_the_others(variant):
    """Each alone is inside, both together are not."""
    x = nn.Parameter(torch.tensor([0.9, 0.0], dtype=torch.float64))
    y = nn.Parameter(torch.tensor([0.0, 0.9], dtype=torch.float64))
    optimizer = S3CG([x], gamma=0.1, rho=1.0, beta=1.0, norm=Euclidean(), variant=variant)
    x.grad = torch.full_like(x, 1e-9)
    optimizer.step()
    optimizer.add_param_group({"params": [y]})
    x.grad, y.grad = torch.full_like(x, 1e-9), torch.full_like(y, 1e-9)
    with pytest.warns(UserWarning, match="2 parameters together"):
        optimizer.step()
    assert torch.cat([x, y]).norm().item() <= 1 + 1e-12
