"""Test problems whose smoothness constants are known, in several norms.

`(L0, L1)` means `||g(x) - g(y)||* <= (L0 + L1 ||g(x)||*) ||x - y||` whenever `||x - y|| <= 1/L1`
(everywhere for `L1 = 0`). Each function derives its constants in its docstring. All tensors are
float64.

Examples:
    >>> from normball.norms import Euclidean, Sign
    >>> from normball.theory import problems
    >>> problems.quadratic([1.0, 10.0], Euclidean()).L0
    10.0
    >>> problems.quadratic([1.0, 10.0], Sign(normalized=False)).L0
    11.0
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from normball.norms import L1, Euclidean, Norm, Nuclear, Product, Sign, Spectral
from normball.theory.space import Function, Point, Space, dot

__all__ = [
    "Problem",
    "breast_cancer",
    "cosh",
    "fourth_power",
    "joined",
    "low_rank",
    "phase_retrieval",
    "quadratic",
    "schatten_power",
    "shifted",
    "sparse",
]

_DTYPE = torch.float64


@dataclass(frozen=True)
class Problem:
    """A function, a start, and what is known about them.

    Attributes:
        name: for tables.
        fun: of `x0`'s structure, returns a 0-d tensor.
        x0: a start; inside the ball where there is one.
        norm: in which the constants hold.
        L0: the constant part of the smoothness.
        L1: its part relative to the dual norm of the gradient; 0 for L-smooth functions.
        infimum: of `fun`, over the ball where there is one; None where it is not known.
        beta: radius of the ball; None without constraint.
    """

    name: str
    fun: Function
    x0: Point
    norm: Norm | Product
    L0: float
    L1: float
    infimum: float | None = None
    beta: float | None = None


def _randn(shape: Sequence[int], seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(tuple(shape), generator=generator, dtype=_DTYPE)


def quadratic(spectrum: Sequence[float], norm: Norm, columns: int = 0) -> Problem:
    """`<x, A x>/2` with `A = diag(spectrum)`, in the norm Euclidean, Sign or Spectral.

    The gradient is `A x`, linear, so `L1 = 0` and `L0 = max ||A u||*` over the unit ball:

    - Euclidean: the largest eigenvalue;
    - Sign (`max |x_i|`, not normalised): `||A u||_1 <= sum_i a_i`, met at `u = (1, ..., 1)`;
    - Spectral (`sigma_max/s`), `x` of `columns` columns: `s ||A u||_nuc <= s ||A||_nuc sigma_max(u)
      <= s^2 sum_i a_i`.

    Args:
        spectrum: eigenvalues, not negative.
        norm: one of the three.
        columns: of `x`; 0 makes `x` a vector.

    Raises:
        ValueError: no eigenvalue, one that is negative or not finite, or another norm.
    """
    if not spectrum or not all(0 <= value < math.inf for value in spectrum):
        raise ValueError(
            f"spectrum={tuple(spectrum)} must hold finite eigenvalues, none of them negative"
        )
    a = torch.tensor(tuple(spectrum), dtype=_DTYPE)
    shape = torch.Size((len(spectrum), columns) if columns else (len(spectrum),))
    a = a[:, None] if columns else a
    if isinstance(norm, Euclidean):
        L0 = float(a.max())
    elif isinstance(norm, Sign) and not norm.normalized:
        L0 = float(a.sum()) * max(columns, 1)
    elif isinstance(norm, Spectral):
        L0 = float(a.sum()) * _scale(norm, shape) ** 2
    else:
        raise ValueError(f"no smoothness constant is known for {norm}")
    x0 = torch.full(shape, 2.0, dtype=_DTYPE)
    x0 = x0 + _randn(shape, 0)
    return Problem("quadratic", lambda x: (a * x * x).sum() / 2, x0, norm, L0, 0.0, 0.0)


def _scale(norm: Spectral, shape: torch.Size) -> float:
    """Return `s` of `sigma_max/s`, read off the norm itself: a matrix of one entry has norm 1/s."""
    unit = torch.zeros(shape, dtype=_DTYPE)
    unit[0, 0] = 1
    return 1 / float(norm.norm(unit))


def cosh(a: Point, norm: Norm | Product) -> Problem:
    """`exp(<a, x>) + exp(-<a, x>)`, in any norm: steeper than any L-smooth function.

    With `s = <a, x>` the gradient is `2 sinh(s) a`, so `||g||* = 2 |sinh s| ||a||*`. A move by `h`
    changes `s` by at most `t = ||a||* ||h||`, and `|sinh(s + t) - sinh s| <= |sinh s| (cosh t - 1 +
    sinh t) + sinh t = |sinh s| (e^t - 1) + sinh t`, as `cosh s <= 1 + |sinh s|`. With `L1 =
    ||a||*/log 2` the allowed moves have `t <= log 2`, where, by convexity, `e^t - 1 <= t/log 2` and
    `sinh t <= 0.75 t/log 2`. So `L1 = ||a||*/log 2` and `L0 = 1.5 ||a||*^2/log 2`.

    Args:
        a: not 0, a tensor or a sequence of them that fits the norm; `x` has the same structure.
        norm: any.

    Raises:
        ValueError: `a` is 0 or not finite.
    """
    space = Space(norm, a)
    parts = space.unpack(a)
    lmo, dual = space.lmo_and_dual(parts)
    size = float(dual)
    if not 0 < size < math.inf:
        raise ValueError(f"a must be finite and not 0: its dual norm is {size:g}")
    # <a, x0> is about 6: a gradient far above L0/L1.
    x0 = [-6 / size * v + 0.1 / size * _randn(v.shape, 1) for v in lmo]

    def fun(x: Any) -> Tensor:
        return 2 * torch.cosh(dot(parts, [x] if isinstance(x, Tensor) else list(x)))

    return Problem(
        "cosh",
        fun,
        space.pack(x0),
        norm,
        L0=1.5 * size**2 / math.log(2),
        L1=size / math.log(2),
        infimum=2.0,
    )


_FOURTH = 6 + 4 * math.sqrt(2)


def fourth_power(size: int, norm: Norm, L1: float = 1.0) -> Problem:
    """`sum_i x_i^4/4`, the fourth power of the 4-norm, for any `L1 > 0`; Euclidean and Sign.

    One coordinate: `|(x + h)^3 - x^3| <= |h| (3 x^2 + 3 |x| |h| + h^2)`, and with `|h| <= 1/L1`,
    `u = L1 |x|`, the bracket less `L1 |x|^3` is at most `(3 u^2 + 3 u + 1 - u^3)/L1^2`, largest at
    `u = 1 + sqrt(2)`: `c = (6 + 4 sqrt(2))/L1^2`. So a coordinate of the gradient changes by at
    most `(c + L1 |g_i|) |h_i|`. Euclidean: `L0 = c`. Sign: summed over `size` coordinates, `L0 =
    size c`.

    Raises:
        ValueError: another norm, or `L1` not positive.
    """
    _check_positive(L1)
    if not (isinstance(norm, Euclidean) or (isinstance(norm, Sign) and not norm.normalized)):
        raise ValueError(f"no smoothness constant is known for {norm}")
    L0 = _FOURTH / L1**2 * (1 if isinstance(norm, Euclidean) else size)
    x0 = 4 + _randn((size,), 2)
    return Problem("fourth power", lambda x: (x**4).sum() / 4, x0, norm, L0, L1, 0.0)


def schatten_power(rows: int, columns: int, L1: float = 1.0) -> Problem:
    """`sum_i sigma_i(X)^4/4 = tr((X^T X)^2)/4` in the plain spectral norm, for any `L1 > 0`.

    The gradient is `X X^T X`, of nuclear norm `sum sigma_i^3`. A move by `H`, `h = sigma_max(H)`,
    changes it by three products with one `H`, each of nuclear norm at most `h sum sigma_i^2`,
    three with two, at most `h^2 sum sigma_i`, and one with three, at most `k h^3`, `k = min(rows,
    columns)`. With `h <= 1/L1` that is `h sum_i (3 sigma_i^2 + 3 sigma_i/L1 + 1/L1^2)`, bounded as
    in `fourth_power` by `h (k c + L1 ||g||*)`: `L0 = k (6 + 4 sqrt(2))/L1^2`.

    Raises:
        ValueError: `L1` is not positive.
    """
    _check_positive(L1)
    return Problem(
        "Schatten power",
        lambda x: (x.mT @ x).square().sum() / 4,
        3 * _randn((rows, columns), 3),
        Spectral("plain"),
        L0=min(rows, columns) * _FOURTH / L1**2,
        L1=L1,
        infimum=0.0,
    )


def _check_positive(L1: float) -> None:
    if not 0 < L1 < math.inf:
        raise ValueError(f"L1={L1} must be positive: the function is not L-smooth")


def phase_retrieval(size: int, norm: Norm, L1: float = 1.0) -> Problem:
    """`mean_i (<a_i, x>^2 - b_i)^2/4`: a quartic with saddles, in the norm Euclidean or Sign.

    The `m = size (size - 1)` measurements are `e_i + e_j` and `e_i - e_j`; `b_i = <a_i, z>^2` for a
    planted `z`, so the infimum is 0. With `s = <a, x>`, `q^4 = mean s^4`, `p^2 = mean b^2`, and
    `K r^4 <= q^4 <= Q r^4` for `r = ||x||`: a move by `h` changing `s` by `t` changes `s^3 - b s`
    by at most `|t| (3 s^2 + 3 |s t| + t^2 + b)`. Paired with any `u` of norm 1, Hoelder's
    inequality (all of `s`, `t`, `<a, u>` in the 4-mean) bounds the change of the gradient by `||h||
    (3 sqrt(Q) q^2 + 3 Q^(3/4) q/L1 + Q/L1^2 + sqrt(Q) p)` for `||h|| <= 1/L1`. From below, the
    dual norm is at least `<g, x>/r = mean(s^4 - b s^2)/r`, and that at least
    `K^(1/4) (q^3 - p q)`. `L0` is the maximum over `q` of the bracket less
    `L1 max(0, K^(1/4) (q^3 - p q))`.

    As `m mean s^4 = 6 ||x||_2^4 + (2 size - 8) sum x_i^4`: Euclidean `K = 6/m`, `Q = 2/size`; Sign
    `K = 2/size`, `Q = 8`, met at the corners.

    Raises:
        ValueError: another norm, `size` below 4, or `L1` not positive.
    """
    _check_positive(L1)
    if size < 4:
        raise ValueError(f"size={size} must be at least 4")
    if isinstance(norm, Euclidean):
        K, Q = 6 / (size * (size - 1)), 2 / size
    elif isinstance(norm, Sign) and not norm.normalized:
        K, Q = 2 / size, 8.0
    else:
        raise ValueError(f"no smoothness constant is known for {norm}")
    eye = torch.eye(size, dtype=_DTYPE)
    pairs = torch.combinations(torch.arange(size))
    a = torch.cat([eye[pairs[:, 0]] + sign * eye[pairs[:, 1]] for sign in (1, -1)])
    b = (a @ _randn((size,), 4)).square()
    return Problem(
        "phase retrieval",
        lambda x: ((a @ x).square() - b).square().mean() / 4,
        8 * _randn((size,), 5),
        norm,
        _largest_excess(float(b.square().mean().sqrt()), K, Q, L1),
        L1,
        0.0,
    )


def _largest_excess(p: float, K: float, Q: float, L1: float) -> float:
    """Maximise over `q >= 0` what `phase_retrieval` calls the bracket less the gradient's share."""
    root, steep = math.sqrt(Q), L1 * K**0.25

    def excess(q: float) -> float:
        bracket = 3 * root * q * q + 3 * Q**0.75 * q / L1 + Q / L1**2 + root * p
        return float(bracket - steep * max(0.0, q**3 - p * q))

    # It grows up to sqrt(p); beyond, its derivative is a concave parabola, positive at 0.
    half, constant = 3 * root, 3 * Q**0.75 / L1 + steep * p
    turn = (half + math.sqrt(half**2 + 3 * steep * constant)) / (3 * steep)
    return excess(max(turn, math.sqrt(p)))


def breast_cancer(norm: Norm, beta: float | None = None) -> Problem:
    """Logistic regression on scikit-learn's breast cancer data, features standardised; any norm.

    `mean_i log(1 + exp(-y_i <a_i, x>))` with `y_i` in {-1, 1}. Its Hessian is `mean_i p_i (1 -
    p_i) a_i a_i^T`, so `L0 = mean_i ||a_i||*^2/4` and `L1 = 0` in every norm. The infimum
    is not known.

    Raises:
        ImportError: scikit-learn, of the extra `normball[lab]`, is not installed.
    """
    from sklearn.datasets import load_breast_cancer

    data = load_breast_cancer()
    a = torch.tensor(data.data, dtype=_DTYPE)
    a = (a - a.mean(0)) / a.std(0)
    y = 2 * torch.tensor(data.target, dtype=_DTYPE) - 1
    rows = a * y[:, None]
    L0 = sum(float(norm.dual_norm(row)) ** 2 for row in a) / len(a) / 4
    x0 = torch.zeros(a.shape[1], dtype=_DTYPE)
    return Problem(
        "breast cancer",
        lambda x: torch.nn.functional.softplus(-(rows @ x)).mean(),
        x0,
        norm,
        L0,
        0.0,
        beta=beta,
    )


def sparse(rows: int = 60, size: int = 30, support: int = 4, beta: float = 1.0) -> Problem:
    """Least squares over the l1 ball: `mean_i (<a_i, x> - b_i)^2/2`, with a sparse solution.

    In the l1 norm the largest change of the gradient over the unit ball is the largest entry of the
    Hessian `A^T A/rows` in absolute value, which, it being positive semidefinite, lies on the
    diagonal: `L0 = max_j mean_i a_ij^2`, `L1 = 0`. The planted vector has norm 1.5 beta, so the
    constraint binds.

    Raises:
        ValueError: `support` is not from 1 to `size`.
    """
    if not 1 <= support <= size:
        raise ValueError(f"support={support} must be from 1 to size={size}")
    a = _randn((rows, size), 6)
    planted = torch.zeros(size, dtype=_DTYPE)
    planted[:support] = torch.tensor([(-1.0) ** i for i in range(support)], dtype=_DTYPE)
    b = a @ planted * (1.5 * beta / support) + 0.05 * _randn((rows,), 7)
    return Problem(
        "sparse regression",
        lambda x: (a @ x - b).square().mean() / 2,
        torch.zeros(size, dtype=_DTYPE),
        L1(),
        L0=float(a.square().mean(0).max()),
        L1=0.0,
        beta=beta,
    )


def low_rank(rows: int = 6, columns: int = 5, count: int = 60, beta: float = 1.0) -> Problem:
    """Matrix sensing over the nuclear ball: `mean_i (<A_i, X> - b_i)^2/2`, planted rank 2.

    The gradient changes by `mean_i <A_i, H> A_i`, of spectral norm at most `mean_i
    sigma_max(A_i)^2 ||H||_nuc`: `L0 = mean_i sigma_max(A_i)^2`, `L1 = 0`. The planted matrix has
    nuclear norm about 1.5 beta, so the constraint binds.
    """
    a = _randn((count, rows, columns), 8)
    planted = _randn((rows, 2), 9) @ _randn((2, columns), 10)
    planted = planted * (1.5 * beta / float(Nuclear().norm(planted)))
    b = (a * planted).sum((1, 2)) + 0.05 * _randn((count,), 11)
    L0 = sum(float(Nuclear().dual_norm(one)) ** 2 for one in a) / count
    return Problem(
        "low-rank regression",
        lambda x: ((a * x).sum((1, 2)) - b).square().mean() / 2,
        torch.zeros((rows, columns), dtype=_DTYPE),
        Nuclear(),
        L0,
        L1=0.0,
        beta=beta,
    )


def joined(problems: Sequence[Problem], radii: Sequence[float]) -> Problem:
    """The sum of L-smooth problems on separate blocks, in the product norm of their norms.

    `||g||* = sum_l r_l ||g_l||_l*` changes by at most `sum_l r_l L_l ||h_l||_l <= sum_l r_l^2 L_l
    max_l ||h_l||_l/r_l`: `L0 = sum_l r_l^2 L_l`, `L1 = 0`.

    Raises:
        ValueError: a problem on several tensors, with a ball, or with `L1 > 0`.
    """
    norms = []
    for problem in problems:
        if problem.L1 or problem.beta is not None or not isinstance(problem.norm, Norm):
            raise ValueError(f"{problem.name} is not an L-smooth problem on one tensor")
        norms.append(problem.norm)

    def fun(x: Sequence[Tensor]) -> Tensor:
        values = [p.fun(part) for p, part in zip(problems, x, strict=True)]
        return torch.stack(values).sum()

    starts: list[Any] = [problem.x0 for problem in problems]
    infima = [p.infimum for p in problems if p.infimum is not None]
    return Problem(
        "product",
        fun,
        starts,
        Product(norms, radii),
        L0=sum(r * r * p.L0 for r, p in zip(radii, problems, strict=True)),
        L1=0.0,
        infimum=sum(infima) if len(infima) == len(problems) else None,
    )


def shifted(problem: Problem, by: float, beta: float | None = None) -> Problem:
    """Move the minimum by `by` in every coordinate, and ask for it over a ball: same constants.

    Args:
        problem: on one tensor or several, without a ball.
        by: added to every coordinate of the minimiser.
        beta: radius of the ball, which starts at 0; None for none.
    """

    def fun(x: Any) -> Tensor:
        moved = x - by if isinstance(x, Tensor) else [part - by for part in x]
        return problem.fun(moved)

    zero: Any = problem.x0
    zero = zero * 0 if isinstance(zero, Tensor) else [0 * part for part in zero]
    infimum = problem.infimum if beta is None else None
    return replace(problem, fun=fun, x0=zero, beta=beta, infimum=infimum)
