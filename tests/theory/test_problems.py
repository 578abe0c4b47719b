"""The constants of every problem, on random pairs, in every norm it claims."""

import math

import numpy as np
import pytest
import torch

from normball.norms import L1, RMS, Column, Euclidean, Lp, Nuclear, Product, Sign, Spectral
from normball.theory import noise, problems
from normball.theory.space import Space, dot

SIGN = Sign(normalized=False)
SPECTRUM = (0.1, 1.0, 3.0, 10.0)
VECTOR = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
MATRIX = torch.linspace(-1, 2, 12, dtype=torch.float64).view(4, 3)

PROBLEMS = [
    *[problems.quadratic(SPECTRUM, norm) for norm in (Euclidean(), SIGN)],
    *[problems.quadratic(SPECTRUM, n, 3) for n in (Euclidean(), SIGN, Spectral("plain"))],
    problems.quadratic(SPECTRUM, Spectral(), 3),
    *[problems.cosh(VECTOR, norm) for norm in (Euclidean(), SIGN, L1(), RMS(), Lp(3.0))],
    *[problems.cosh(MATRIX, norm) for norm in (Spectral(), Nuclear(), Column())],
    *[problems.fourth_power(5, n, c) for n in (Euclidean(), SIGN) for c in (0.2, 1.0, 5.0)],
    *[problems.schatten_power(4, 3, c) for c in (0.2, 1.0)],
    *[problems.phase_retrieval(5, n, c) for n in (Euclidean(), SIGN) for c in (0.3, 1.0)],
    *[problems.breast_cancer(norm) for norm in (Euclidean(), SIGN, L1())],
    problems.sparse(),
    problems.low_rank(),
    problems.cosh([VECTOR, MATRIX], Product([SIGN, Spectral()], (0.5, 3.0))),
    problems.shifted(problems.quadratic(SPECTRUM, SIGN), 2.0, beta=1.0),
    problems.joined(
        [problems.quadratic(SPECTRUM, Euclidean()), problems.quadratic((1.0, 2.0), SIGN)],
        (0.5, 3.0),
    ),
]


def gradient(problem, x):
    leaves = [part.clone().requires_grad_() for part in x]
    value = problem.fun(leaves[0] if isinstance(problem.x0, torch.Tensor) else leaves)
    return float(value.detach()), list(torch.autograd.grad(value, leaves))


def pairs(problem, space, count=30):
    """Pairs over many sizes of the point, at most 1/L1 apart, and in special directions."""
    generator = torch.Generator().manual_seed(0)
    start = space.unpack(problem.x0)
    for i in range(count):
        size = 10.0 ** (-2 + 3 * i / count)
        x = [size * torch.randn(p.shape, generator=generator, dtype=p.dtype) for p in start]
        move = [torch.randn(p.shape, generator=generator, dtype=p.dtype) for p in start]
        if i % 2:
            move = space.lmo_and_dual(gradient(problem, x)[1])[0]
        reach = 1 / problem.L1 if problem.L1 else size
        length = reach * (1.0 if i % 3 == 0 else float(torch.rand((), generator=generator)))
        scale = (length / float(space.norm(move))) * (-1 if i % 4 < 2 else 1)
        yield x, [p + scale * m for p, m in zip(x, move, strict=True)], length


def names(problem):
    return f"{problem.name}-{problem.norm}-{problem.L1:g}"


@pytest.mark.parametrize("problem", PROBLEMS, ids=names)
def test_smoothness(problem):
    space = Space(problem.norm, problem.x0)
    tightest = 0.0
    for x, y, length in pairs(problem, space):
        value, g = gradient(problem, x)
        other, h = gradient(problem, y)
        dual = float(space.lmo_and_dual(g)[1])
        change = float(space.lmo_and_dual([b - a for a, b in zip(g, h, strict=True)])[1])
        allowed = (problem.L0 + problem.L1 * dual) * length
        assert change <= allowed * (1 + 1e-9)
        # The descent inequality that it implies.
        linear = float(dot(g, [b - a for a, b in zip(x, y, strict=True)]))
        slack = 1e-9 * (abs(value) + abs(other) + 1)
        assert other <= value + linear + allowed * length / 2 + slack
        tightest = max(tightest, change / allowed)
    # Constants that are far too large would make every bound pass.
    assert tightest > 0.02


@pytest.mark.parametrize("problem", PROBLEMS, ids=names)
def test_start_is_feasible_and_above_the_infimum(problem):
    space = Space(problem.norm, problem.x0)
    value, g = gradient(problem, space.unpack(problem.x0))
    assert math.isfinite(value)
    if problem.infimum is not None:
        assert value > problem.infimum
    if problem.beta is not None:
        assert float(space.norm(space.unpack(problem.x0))) <= problem.beta
    if problem.L1:
        # Starts in the region where clipping acts.
        assert float(space.lmo_and_dual(g)[1]) > problem.L0 / problem.L1 / 100


def test_the_sharp_constants_are_reached():
    ones = torch.ones(4, dtype=torch.float64)
    problem = problems.quadratic(SPECTRUM, SIGN)
    assert float(SIGN.dual_norm(gradient(problem, [ones])[1][0])) == pytest.approx(problem.L0)
    problem = problems.quadratic(SPECTRUM, Spectral("plain"), 4)
    eye = torch.eye(4, dtype=torch.float64)
    assert float(Spectral("plain").dual_norm(gradient(problem, [eye])[1][0])) == pytest.approx(
        problem.L0
    )
    assert pytest.approx(sum(SPECTRUM)) == problem.L0


def test_product_constants():
    parts = [problems.quadratic((2.0,), Euclidean()), problems.quadratic((3.0, 4.0), SIGN)]
    joined = problems.joined(parts, (0.5, 3.0))
    assert pytest.approx(0.25 * 2 + 9 * 7) == joined.L0
    assert isinstance(joined.norm, Product)


def test_bounded_noise_is_unbiased_with_its_variance():
    problem = problems.quadratic(SPECTRUM, Euclidean())
    noisy = noise.with_noise(problem, 2.0)
    exact = gradient(problem, [problem.x0])[1][0]
    errors = torch.stack([gradient(noisy, [problem.x0])[1][0] - exact for _ in range(4000)])
    assert float(errors.square().sum(1).mean()) == pytest.approx(4.0, rel=0.06)
    assert float(errors.mean(0).norm()) < 4 * 2.0 / math.sqrt(4000)


def test_heavy_tails_have_their_distribution():
    problem = problems.quadratic(SPECTRUM, Euclidean())
    noisy = noise.with_heavy_tails(problem, 1.0, tail=1.5)
    exact = gradient(problem, [problem.x0])[1][0]
    errors = torch.cat([gradient(noisy, [problem.x0])[1][0] - exact for _ in range(2000)])
    for level in (1.0, 10.0, 50.0):
        expected = (1 + level) ** -1.5
        seen = float((errors.abs() > level).double().mean())
        assert seen == pytest.approx(expected, abs=4 * math.sqrt(expected / len(errors)))
    assert abs(float((errors > 0).double().mean()) - 0.5) < 0.03


def test_refusals():
    for spectrum in ((-1.0,), (math.nan, 1.0), (math.inf,), ()):
        with pytest.raises(ValueError, match=r"spectrum=\(.*\) must hold finite eigenvalues"):
            problems.quadratic(spectrum, Euclidean())
    for a in (0 * VECTOR, math.nan * VECTOR):
        with pytest.raises(ValueError, match="a must be finite and not 0"):
            problems.cosh(a, SIGN)
    with pytest.raises(ValueError, match="support=5 must be from 1 to size=3"):
        problems.sparse(size=3, support=5)
    with pytest.raises(ValueError, match="no smoothness constant is known for L1"):
        problems.quadratic((1.0,), L1())
    with pytest.raises(ValueError, match="L1=0 must be positive"):
        problems.fourth_power(3, Euclidean(), 0)
    with pytest.raises(ValueError, match="no smoothness constant"):
        problems.phase_retrieval(5, L1())
    with pytest.raises(ValueError, match="size=3"):
        problems.phase_retrieval(3, Euclidean())
    with pytest.raises(ValueError, match="tail=1"):
        noise.with_heavy_tails(PROBLEMS[0], 1.0, 1.0)
    with pytest.raises(ValueError, match="not an L-smooth problem"):
        problems.joined([problems.cosh(VECTOR, SIGN)], (1.0,))


def test_breast_cancer_against_numpy():
    from sklearn.datasets import load_breast_cancer

    data = load_breast_cancer()
    a = (data.data - data.data.mean(0)) / data.data.std(0, ddof=1)
    problem = problems.breast_cancer(Euclidean())
    x = np.linspace(-1, 1, 30)
    margin = (2 * data.target - 1) * (a @ x)
    expected = np.mean(np.logaddexp(0, -margin))
    assert float(problem.fun(torch.tensor(x))) == pytest.approx(expected, rel=1e-12)
