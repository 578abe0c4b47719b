"""A search for counterexamples to every statement of the page, over functions and constants.

The functions are sums of lines with random curvatures (`adversary`); starts, step sizes, thresholds
and errors of the estimate are searched too. The same search finds counterexamples to the printed
statements that fail.
"""

import math
from functools import partial

import numpy as np
import pytest
import torch

from normball.norms import L1, Euclidean, Sign
from normball.theory import bounds, minimize, printed
from tests.theory.adversary import Line, case, search

STEPS = 20
EPS = torch.finfo(torch.float64).eps
SIGN = Sign(normalized=False)


def run(one, norm, method, **options):
    x0 = torch.tensor(one.x0)
    found = minimize(one.value, x0, method=method, norm=norm, max_iter=STEPS, tol=0, **options)
    return found.history


def norm_of(one):
    """The norm, and whether the constants of the lines add up in it."""
    return [(SIGN, True), (Euclidean(), False), (L1(), False)][int(abs(one.rest[0]) * 3) % 3]


def largest(low, bound, first=1):
    """The largest ratio of `low[n - 1]` to `bound(n)`, for n from `first`."""
    return max(float(low[n - 1]) / bound(n) for n in range(first, len(low) + 1))


def lowest(history):
    """The running minimum, less what rounding may add to a gap that is 0."""
    measure = history.measure[:-1]
    return (measure.cummin(0).values - 64 * EPS * measure.max()).clamp(min=0)


def relative(one):
    """The norm and constants of a case under (L0, L1)-smoothness."""
    norm, summed = norm_of(one)
    relative_part = math.exp(3 * one.rest[1])
    return norm, one.smoothness(relative_part, summed), relative_part


def least_gain(history, promised):
    """The largest ratio of a promised to a measured decrease, give or take rounding."""
    rounding = 64 * EPS * float(history.fun.abs().max())
    gained = history.fun[:-1] - history.fun[1:] + rounding
    return math.inf if float(gained.min()) <= 0 else float((promised / gained).max())


# -- GGNC and uCG ----------------------------------------------------------------------------------


def ggnc(numbers, bound=bounds.ggnc, descent=False, factor=1.0):
    one = case(numbers)
    norm, L0, ell = relative(one)
    rho = L0 / ell * math.exp(3 * one.rest[2])
    gamma = factor / (L0 + rho * ell)
    history = run(one, norm, "ggnc", gamma=gamma, rho=rho)
    if descent:
        dual = history.measure[:-1]
        return least_gain(history, gamma / 2 * dual.clamp(max=rho) * dual)
    extra = {"L0": L0, "L1": ell} if bound is bounds.ggnc else {}
    return largest(lowest(history), lambda n: bound(n, one.delta(), gamma=gamma, rho=rho, **extra))


def ucg(numbers, bound, share):
    one = case(numbers)
    norm, L0, ell = relative(one)
    lr = share / ell * min(1.0, math.exp(one.rest[2]))
    history = run(one, norm, "ucg", gamma=lr, rho=1.0)
    return largest(lowest(history), lambda n: bound(n, one.delta(), lr=lr, L0=L0, L1=ell))


def ucg_smooth(numbers):
    one = case(numbers)
    norm, summed = norm_of(one)
    L = one.smoothness(0, summed)
    lr = math.exp(2 * one.rest[1]) / L
    history = run(one, norm, "ucg", gamma=lr, rho=1.0)
    means = history.measure[:-1].cumsum(0) / torch.arange(1, STEPS + 1)
    return largest(means, lambda n: bounds.ucg(n, one.delta(), lr=lr, L=L))


# -- S3CG in a box ---------------------------------------------------------------------------------


def in_box(numbers):
    one = case(numbers)
    beta = math.exp(one.rest[1]) * one.lines[0].knots[-1]
    one = one.in_box(beta)
    return one, beta, one.smoothness(0, summed=True), one.delta(beta)


def s3cg(numbers, method, bound=bounds.s3cg, descent=False):
    one, beta, L, delta = in_box(numbers)
    gamma = min(1.0, math.exp(one.rest[2])) / L
    rho = min(1.0, math.exp(one.rest[3])) / gamma
    history = run(one, SIGN, method, gamma=gamma, rho=rho, beta=beta)
    gap = history.measure[:-1].clamp(min=0)
    if descent:
        promised = gamma / 2 * (gap / (4 * beta**2)).clamp(max=rho) * gap
        return least_gain(history, promised.maximum(history.step[:-1] * gap / 2))
    extra = {"L": L} if bound is bounds.s3cg else {}
    return largest(
        lowest(history), lambda n: bound(n, delta, gamma=gamma, rho=rho, beta=beta, **extra)
    )


# -- step sizes without constants ------------------------------------------------------------------


def searched(numbers, threshold):
    one = case(numbers)
    norm, L0, ell = relative(one)
    rho = L0 / ell * math.exp(3 * one.rest[2]) if threshold else math.inf
    options = {"rho": rho} if threshold else {}
    history = run(one, norm, "ggnc", gamma="backtracking", **options)
    first = min(rho, float(history.measure[0])) / float(history.step[0] or math.inf)
    return one, history, L0, ell, rho, first


def backtracking(numbers, statement):
    one, history, L0, ell, rho, first = searched(numbers, statement != "free")
    if not 0 < first < math.inf:
        return 0.0
    bound = bounds.backtracking_ggnc
    smallest = min(L0, rho * ell)
    if statement == "threshold":
        bound, smallest = bounds.backtracking_threshold, L0 + rho * ell
    dual = float(history.measure[0])
    if first <= 2 * min(1, rho / dual) * (L0 + ell * dual):
        begin, first = 1, None
    else:
        begin = 1 + max(0, math.ceil(math.log2(first / smallest) - 1))
    if begin > STEPS:
        return 0.0
    options = {"L0": L0, "L1": ell, "first": first, "rho": rho}
    return largest(lowest(history), lambda n: bound(n, one.delta(), **options), begin)


def constants(numbers, threshold):
    """`M_k` against the larger of `2^(1 - k) M_1` and `2 max_j 2^(j - k) A_j`.

    Until rounding hides a decrease: from there on the constant is kept. Before, rounding of values
    and slopes moves the constant at which a trial passes, and the curvature.
    """
    one, history, L0, ell, rho, first = searched(numbers, threshold)
    limit, worst, loosest = 2 * first, 0.0, 1.0
    for k in range(STEPS):
        dual, step = float(history.measure[k]), float(history.step[k])
        value = max(abs(float(history.fun[k])), abs(float(history.fun[k + 1])))
        if step * dual / 2 <= 64 * EPS * value:
            break
        clipped = min(rho, dual)
        needed = clipped * (L0 / dual + ell)
        slack = 1 + one.rounding() / (step * dual)
        slack += one.rounding_of_slope() / (step * (L0 + ell * dual))
        loosest = max(loosest, slack)
        limit = max(limit / 2, 2 * slack * needed)
        if k:
            worst = max(worst, clipped / step / limit)
        if threshold:
            assert limit <= max(first * 2.0**-k, 2 * (L0 + rho * ell)) * loosest * (1 + 1e-12)
    return worst


def backtracking_in_box(numbers, method):
    one, beta, L, delta = in_box(numbers)
    history = run(one, SIGN, method, gamma="backtracking", beta=beta)
    if not float(history.step[0]):
        return 0.0
    size = 2 * beta
    if method == "s3cg-1":
        slopes = [line.slope(x) for line, x in zip(one.lines, one.x0, strict=True)]
        size = float(np.abs(one.x0 + beta * np.sign(slopes)).max())
    first = float(history.measure[0]) / (float(history.step[0]) * size**2)
    begin = 1 + max(0, math.ceil(math.log2(first / L) - 1))
    if begin > STEPS:
        return 0.0
    return largest(
        lowest(history),
        lambda n: bounds.backtracking_short_step(n, delta, L=L, beta=beta, first=first),
        begin,
    )


def adagrad(numbers, threshold):
    one = case(numbers)
    norm, summed = norm_of(one)
    L = one.smoothness(0, summed)
    start = float(sum(abs(line.slope(x)) for line, x in zip(one.lines, one.x0, strict=True)))
    rho = start * math.exp(3 * one.rest[2]) if threshold else math.inf
    history = run(one, norm, "ggnc", gamma="adagrad", **({"rho": rho} if threshold else {}))
    eta, first = float(history.step[0]), min(rho, float(history.measure[0]))
    if not eta or not first:
        return 0.0
    low = lowest(history).clamp(max=rho)
    return largest(low, lambda n: bounds.adagrad(n, one.delta(), L=L, eta=eta, first=first))


def adagrad_in_box(numbers):
    one, beta, L, delta = in_box(numbers)
    history = run(one, SIGN, "s3cg-2", gamma="adagrad", beta=beta)
    first = float(history.measure[0])
    if first <= 0:
        return 0.0
    return largest(
        lowest(history), lambda n: bounds.adagrad_gap(n, delta, L=L, beta=beta, first=first)
    )


# -- wrong estimates -------------------------------------------------------------------------------


def errors_of(one, numbers, scale):
    """Errors of the estimate, of any size and sign: for the proof they need not be random."""
    waves = numbers[:STEPS] * np.exp(one.rest[4] * 2)
    return scale * waves


def ggnc_wrong(numbers):
    """The method in a few lines, on one coordinate."""
    one = case(numbers)
    line, x = one.lines[0], float(one.x0[0])
    L = line.smoothness(0)
    gamma, rho = min(1.0, math.exp(one.rest[1])) / L, L * math.exp(2 * one.rest[2])
    delta, total, moments, worst = float(line.value(x)) - line.infimum(), 0.0, [], 0.0
    for n, error in enumerate(errors_of(one, numbers, rho), 1):
        slope = float(line.slope(x))
        total += abs(slope)
        moments.append(error**2)
        eps = bounds.ggnc_error(moments, rho=rho, zeta=1.0)
        bound = bounds.ggnc_stochastic(n, delta, gamma=gamma, rho=rho, L=L, error=eps)
        worst = max(worst, total / n / bound)
        d = slope + error
        x -= gamma * min(rho, abs(d)) * float(np.sign(d))
    return worst


def s3cg_wrong(numbers, variant):
    one = case(numbers)
    line = one.lines[0]
    beta = math.exp(one.rest[1]) * line.knots[-1]
    x, L = float(np.clip(one.x0[0], -beta, beta)), line.smoothness(0)
    gamma = min(1.0, math.exp(one.rest[2])) / L
    rho = min(1.0, math.exp(one.rest[3])) / gamma
    delta, total, moments, worst = float(line.value(x)) - line.infimum(beta), 0.0, [], 0.0
    for n, error in enumerate(errors_of(one, numbers, rho * beta), 1):
        slope = float(line.slope(x))
        total += slope * x + beta * abs(slope)
        moments.append(error**2)
        eps = bounds.s3cg_error(moments, rho=rho, zeta=1.0, beta=beta)
        bound = bounds.s3cg_stochastic(n, delta, gamma=gamma, rho=rho, L=L, beta=beta, error=eps)
        worst = max(worst, total / n / bound)
        d = slope + error
        w = x + beta * float(np.sign(d))
        size = w * w if variant == 1 else 4 * beta**2
        x -= gamma * (min(rho, d * w / size) if size else 0.0) * w
    return worst


def momentum(numbers, nesterov):
    """The error's mean and variance from the weights, for gradients that drift as they like."""
    alpha = 1 / (1 + math.exp(-numbers[-1]))
    drift, sigma = math.exp(numbers[-2]), math.exp(numbers[-3])
    moves = np.sign(numbers[-4]) * drift * np.tanh(10 * numbers[:STEPS])
    gradients = numbers[-5] * 3 + moves.cumsum()
    mean, weights, worst = 0.0, np.zeros(STEPS), 0.0
    for k, g in enumerate(gradients):
        mean = (1 - alpha) * mean + alpha * g
        weights *= 1 - alpha
        weights[k] = alpha
        used, parts = mean, weights
        if nesterov:
            used = (1 - alpha) * mean + alpha * g
            parts = (1 - alpha) * weights + alpha * np.eye(STEPS)[k]
        error = math.hypot(used - g, sigma * math.sqrt(np.square(parts).sum()))
        options = {"alpha": alpha, "sigma": sigma, "drift": drift, "nesterov": nesterov}
        bound = bounds.momentum_error(k + 1, first_gradient=abs(gradients[0]), **options)
        worst = max(worst, error / bound)
    return worst


def average(numbers):
    """The average of any points, of a convex function."""
    line = Line(np.concatenate([numbers[:13], [1.0], numbers[13:15]]))
    weight = 1 / (1 + math.exp(-numbers[-1]))
    points = numbers[15 : 15 + STEPS] * np.exp(2 * numbers[-2])
    low, total, mean, worst = line.infimum(), 0.0, 0.0, 0.0
    for n, x in enumerate(points, 1):
        mean += min(1.0, 1 / (weight * n)) * (x - mean)
        total += float(line.value(x)) - low
        limit = bounds.average_gap(n, total, average=weight) + 1e-12 * total
        if n > 1:
            worst = max(worst, (float(line.value(mean)) - low) / limit)
    return worst


def measured(numbers, nesterov, boxed=False, flat=False):
    """Steps of any length between the two limits, along an estimate from exact gradients."""
    one, beta, L0, delta = in_box(numbers) if boxed else (case(numbers), None, 0.0, 0.0)
    line, x, d, worst, low = one.lines[0], float(one.x0[0]), 0.0, 0.0, math.inf
    alpha = 1 / (1 + math.exp(2 - numbers[-1]))
    if boxed:
        ell, L0, lr = 0.0, line.smoothness(0), 1 / (1 + math.exp(1 - 2 * one.rest[2]))
        delta = float(line.value(x)) - line.infimum(beta) + one.rounding()
    else:
        ell = math.exp(3 * one.rest[1])
        L0, lr = line.smoothness(ell), min(1.0, math.exp(one.rest[2])) * alpha / 8 / ell
        delta = float(line.value(x)) - line.infimum() + one.rounding()
    curved = 0.0 if flat else 1.0
    for k in range(1, 4 * STEPS + 1):
        slope = float(line.slope(x))
        low = min(low, slope * x + beta * abs(slope) if boxed else abs(slope))
        options = {"lr": lr, "alpha": alpha, "L0": curved * L0, "L1": ell, "beta": beta}
        bound = bounds.measured_threshold(k, delta, nesterov=nesterov, **options)
        worst = max(worst, (low - one.rounding_of_slope() * (beta or 1)) / bound)
        d = (1 - alpha) * d + alpha * slope
        e = (1 - alpha) * d + alpha * slope if nesterov else d
        shortest, longest = bounds.measured_lengths(k)
        t = lr * (shortest + (longest - shortest) / (1 + math.exp(-5 * numbers[k % STEPS])))
        x -= t * (x + beta * np.sign(e) if boxed else np.sign(e))
    return worst


STATEMENTS = {
    "ggnc": ggnc,
    "ggnc descends": partial(ggnc, descent=True),
    "ucg, L-smooth": ucg_smooth,
    "ucg": partial(ucg, bound=bounds.ucg_relative, share=0.5),
    "ucg, longer steps": partial(ucg, bound=bounds.ucg_relative_half, share=1.0),
    "ucg, printed": partial(ucg, bound=bounds.ucg_relative_printed, share=0.5),
    "s3cg-1": partial(s3cg, method="s3cg-1"),
    "s3cg-2": partial(s3cg, method="s3cg-2"),
    "s3cg-1 descends": partial(s3cg, method="s3cg-1", descent=True),
    "s3cg-2 descends": partial(s3cg, method="s3cg-2", descent=True),
    "backtracking": partial(backtracking, statement="free"),
    "backtracking with a threshold": partial(backtracking, statement="threshold"),
    "backtracking with any threshold": partial(backtracking, statement="any"),
    "its constants": partial(constants, threshold=False),
    "its constants with a threshold": partial(constants, threshold=True),
    "backtracking, s3cg-1": partial(backtracking_in_box, method="s3cg-1"),
    "backtracking, s3cg-2": partial(backtracking_in_box, method="s3cg-2"),
    "adagrad": partial(adagrad, threshold=False),
    "adagrad with a threshold": partial(adagrad, threshold=True),
    "adagrad in the box": adagrad_in_box,
    "ggnc, wrong estimates": ggnc_wrong,
    "s3cg-1, wrong estimates": partial(s3cg_wrong, variant=1),
    "s3cg-2, wrong estimates": partial(s3cg_wrong, variant=2),
    "momentum": partial(momentum, nesterov=False),
    "momentum, looking ahead": partial(momentum, nesterov=True),
    "average": average,
    "measured threshold": partial(measured, nesterov=True),
    "measured threshold, plain momentum": partial(measured, nesterov=False),
    "measured threshold in the box": partial(measured, nesterov=True, boxed=True),
}


@pytest.mark.parametrize("name", STATEMENTS)
def test_no_counterexample_is_found(name):
    worst, _ = search(STATEMENTS[name], seed=0, draws=40, rounds=5)
    assert 0 < worst <= 1 + 1e-9


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", STATEMENTS)
def test_no_counterexample_is_found_by_a_longer_search(name, seed):
    worst, _ = search(STATEMENTS[name], seed=1 + seed, draws=200, rounds=50)
    assert 0 < worst <= 1 + 1e-9


FALSE = {
    "Thm 4.3 as printed": partial(ggnc, bound=printed.ggnc),
    "Thm 4.7 as printed": partial(s3cg, method="s3cg-2", bound=printed.s3cg),
    "ggnc descends with twice the step": partial(ggnc, descent=True, factor=2.0),
    "measured threshold without curvature": partial(measured, nesterov=True, flat=True),
}


@pytest.mark.parametrize("name", FALSE)
def test_the_search_refutes_what_is_false(name):
    worst, numbers = search(FALSE[name], seed=0, draws=150, rounds=30)
    assert worst > 1.01
    assert FALSE[name](numbers) == worst
