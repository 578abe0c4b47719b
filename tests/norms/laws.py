"""The law table: one row per norm. A new norm is tested by adding its row here."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import cvxpy as cp
import numpy as np
import torch

from normball.norms import (
    L1,
    RMS,
    ByShape,
    Column,
    Euclidean,
    Lp,
    Members,
    Norm,
    Nuclear,
    Row,
    Schatten,
    Sign,
    Spectral,
    SpectralConv,
)
from normball.polar import SVD, Eigh, NewtonSchulz, PolarExpress

Array = np.ndarray
# Errors of a sum of n terms grow as a random walk: 2 sqrt(n) roundings, of up to 6^5 entries here.
TERMS = 2 * 6**2.5


def rounding(dtype: torch.dtype) -> float:
    """Return the relative error of what is computed in 32 bit or more and rounded to `dtype`.

    That is by half its `eps`, once each for a factor, a scale and a radius.
    """
    wide = torch.promote_types(dtype, torch.float32)
    return TERMS * torch.finfo(wide).eps + (1.5 * torch.finfo(dtype).eps if wide != dtype else 0)


ROUNDING = {
    dtype: rounding(dtype)
    for dtype in (torch.float64, torch.float32, torch.bfloat16, torch.float16)
}


@dataclass(frozen=True)
class Law:
    """What is true of one norm, from its definition and not from our code.

    `norm` and `dual` take float64 arrays of any shape that fits. `ball` takes a matrix variable of
    shape `(shape[0], rest)` and the original shape, and returns the norm as a convex expression.
    `loss` is how far the dual norm may fall short, and `excess` how far the minimiser may leave the
    ball, both relative, beyond rounding.
    """

    subject: Norm
    ndims: tuple[int, ...]
    norm: Callable[[Array], float]
    dual: Callable[[Array], float]
    ball: Callable[[cp.Expression, tuple[int, ...]], cp.Expression] | None = None
    loss: float = 0.0
    excess: float = 0.0

    def __str__(self) -> str:
        return str(self.subject)


def flat(w: Array) -> Array:
    return w.reshape(w.shape[0], -1)


def sigma(w: Array) -> Array:
    return np.linalg.svd(w, compute_uv=False)


def fan_in(w: Array) -> int:
    return math.prod(w.shape[1:])


def slices(x: cp.Expression, shape: tuple[int, ...]) -> list[cp.Expression]:
    """Return the tensors along the first dimension, as matrices `(shape[1], rest)`."""
    matrix = (shape[1], math.prod(shape[2:]))
    return [cp.reshape(x[i, :], matrix, order="C") for i in range(shape[0])]


def spectral(scale: str, polar, loss: float = 0.0, excess: float = 0.0) -> Law:
    def s(shape) -> float:
        ratio = math.sqrt(shape[-2] / shape[-1])
        return {"rms": ratio, "input": max(1.0, ratio), "plain": 1.0}[scale]

    def ball(x, shape):
        matrices = slices(x, shape) if len(shape) == 3 else [x]
        return cp.max(cp.hstack([cp.sigma_max(matrix) for matrix in matrices])) / s(shape)

    return Law(
        Spectral(scale, polar),
        (2, 3),
        norm=lambda w: sigma(w).max() / s(w.shape),
        dual=lambda d: s(d.shape) * sigma(d).sum(),
        ball=ball,
        loss=loss,
        excess=excess,
    )


def spectral_conv(scale: str) -> Law:
    def s(shape) -> float:
        ratio, taps = math.sqrt(shape[0] / shape[1]), math.prod(shape[2:])
        return {"rms": ratio / taps, "input": max(1.0, ratio) / taps, "plain": 1.0}[scale]

    return Law(
        SpectralConv(scale, SVD()),
        (3, 4, 5),
        norm=lambda w: sigma(flat(w)).max() / s(w.shape),
        dual=lambda d: s(d.shape) * sigma(flat(d)).sum(),
        ball=lambda x, shape: cp.sigma_max(x) / s(shape),
    )


def members(law: Law) -> Law:
    """Return what is true of an ensemble whose members obey `law`."""
    return replace(
        law,
        subject=Members(law.subject),
        ndims=tuple(n + 1 for n in law.ndims),
        norm=lambda w: max(law.norm(x) for x in w),
        dual=lambda d: sum(law.dual(x) for x in d),
        ball=lambda x, shape: cp.max(
            cp.hstack([law.ball(member, shape[1:]) for member in slices(x, shape)])
        ),
    )


def by_shape_norm(w: Array) -> float:
    if w.ndim < 2:
        return float(np.sqrt(np.mean(w**2)))
    return max(sigma(flat(w))) / math.sqrt(w.shape[0] / w.shape[1]) * math.prod(w.shape[2:])


def by_shape_dual(d: Array) -> float:
    if d.ndim < 2:
        return math.sqrt(d.size) * float(np.linalg.norm(d))
    return sum(sigma(flat(d))) * math.sqrt(d.shape[0] / d.shape[1]) / math.prod(d.shape[2:])


def lp(p: float) -> Law:
    q = p / (p - 1)
    return Law(
        Lp(p),
        (0, 1, 2, 3),
        norm=lambda w: float((np.abs(w) ** p).sum() ** (1 / p)),
        dual=lambda d: float((np.abs(d) ** q).sum() ** (1 / q)),
        ball=lambda x, shape: cp.pnorm(cp.vec(x, order="C"), p),
    )


def schatten(p: float) -> Law:
    q = p / (p - 1)
    return Law(
        Schatten(p),
        (2,),
        norm=lambda w: float((sigma(w) ** p).sum() ** (1 / p)),
        dual=lambda d: float((sigma(d) ** q).sum() ** (1 / q)),
    )


LAWS = [
    Law(
        L1(),
        (0, 1, 2, 3),
        norm=lambda w: float(np.abs(w).sum()),
        dual=lambda d: float(np.abs(d).max()),
        ball=lambda x, shape: cp.norm(cp.vec(x, order="C"), 1),
    ),
    lp(1.5),
    lp(4.0),
    Law(
        Nuclear(),
        (2,),
        norm=lambda w: float(sigma(w).sum()),
        dual=lambda d: float(sigma(d).max()),
        ball=lambda x, shape: cp.normNuc(x),
    ),
    schatten(1.5),
    schatten(3.0),
    Law(
        Euclidean(),
        (0, 1, 2, 3, 4),
        norm=lambda w: float(np.sqrt((w**2).sum())),
        dual=lambda d: float(np.sqrt((d**2).sum())),
        ball=lambda x, shape: cp.norm(x, "fro"),
    ),
    Law(
        RMS(),
        (0, 1, 2, 3),
        norm=lambda w: float(np.sqrt(np.mean(w**2))),
        dual=lambda d: math.sqrt(d.size) * float(np.sqrt((d**2).sum())),
        ball=lambda x, shape: cp.norm(x, "fro") / math.sqrt(math.prod(shape)),
    ),
    Law(
        Sign(),
        (1, 2, 4),
        norm=lambda w: fan_in(w) * float(np.abs(w).max()),
        dual=lambda d: float(np.abs(d).sum()) / fan_in(d),
        ball=lambda x, shape: cp.max(cp.abs(x)) * math.prod(shape[1:]),
    ),
    Law(
        Sign(normalized=False),
        (0, 1, 2, 3),
        norm=lambda w: float(np.abs(w).max()),
        dual=lambda d: float(np.abs(d).sum()),
        ball=lambda x, shape: cp.max(cp.abs(x)),
    ),
    Law(
        Column(),
        (2, 4),
        norm=lambda w: float(np.linalg.norm(flat(w), axis=0).max()) / math.sqrt(w.shape[0]),
        dual=lambda d: math.sqrt(d.shape[0]) * float(np.linalg.norm(flat(d), axis=0).sum()),
        ball=lambda x, shape: cp.mixed_norm(x.T, 2, "inf") / math.sqrt(shape[0]),
    ),
    Law(
        Column(transposed=True),
        (2, 3),
        norm=lambda w: float(np.linalg.norm(flat(w), axis=1).max()) / math.sqrt(fan_in(w)),
        dual=lambda d: math.sqrt(fan_in(d)) * float(np.linalg.norm(flat(d), axis=1).sum()),
        ball=lambda x, shape: cp.mixed_norm(x, 2, "inf") / math.sqrt(math.prod(shape[1:])),
    ),
    Law(
        Row(),
        (2, 4),
        norm=lambda w: math.sqrt(fan_in(w)) * float(np.linalg.norm(flat(w), axis=1).max()),
        dual=lambda d: float(np.linalg.norm(flat(d), axis=1).sum()) / math.sqrt(fan_in(d)),
        ball=lambda x, shape: cp.mixed_norm(x, 2, "inf") * math.sqrt(math.prod(shape[1:])),
    ),
    spectral("rms", SVD()),
    spectral("input", SVD()),
    spectral("plain", SVD()),
    spectral("rms", Eigh(), loss=2e-3, excess=3e-4),
    spectral("rms", PolarExpress(), loss=2.5e-3),
    # Not a convergent iteration: it is only held to what its docstring says.
    spectral("rms", NewtonSchulz(), loss=0.35, excess=0.25),
    spectral_conv("rms"),
    spectral_conv("input"),
    spectral_conv("plain"),
    Law(ByShape(), (0, 1, 2, 3, 4, 5), by_shape_norm, by_shape_dual, loss=2e-3, excess=3e-4),
]
ALONE = (L1(), RMS(), Sign(), Column(transposed=True), Spectral("rms", SVD()))
LAWS += [members(law) for law in LAWS if law.subject in ALONE]
