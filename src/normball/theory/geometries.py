"""The norms in which every statement is tested, each with problems of known constants."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch

from normball.norms import Euclidean, Norm, Product, Sign, Spectral
from normball.theory.problems import Problem, cosh, joined, quadratic, shifted

__all__ = ["GEOMETRIES", "Geometry"]

_SPECTRUM = (0.1, 0.5, 2.0, 10.0)
_VECTOR = torch.linspace(-1, 2, 5, dtype=torch.float64)
_MATRIX = torch.linspace(-1, 2, 12, dtype=torch.float64).view(4, 3)
_SIGN = Sign(normalized=False)


@dataclass(frozen=True)
class Geometry:
    """A norm with one problem of each kind in it.

    Attributes:
        norm: of both problems.
        steep: (L0, L1)-smooth, not L-smooth.
        smooth: L-smooth.
        zeta: `max ||x||* / ||x||_2`.
    """

    norm: Norm | Product
    steep: Problem
    smooth: Problem
    zeta: float

    def ball(self) -> Problem:
        """Return the L-smooth problem over a ball that its minimiser lies outside of."""
        return shifted(self.smooth, 1.0, beta=0.5)


def _product() -> Geometry:
    radii = (1.0, 0.5)
    parts = [quadratic(_SPECTRUM, Spectral("plain"), 3), quadratic((*_SPECTRUM, 1.0), _SIGN)]
    norm = Product([p.norm for p in parts if isinstance(p.norm, Norm)], radii)
    # ||x||* = sum_l r_l ||x_l||_l* <= (sum_l r_l^2 zeta_l^2)^(1/2) ||x||_2.
    zeta = math.sqrt(radii[0] ** 2 * 3 + radii[1] ** 2 * 5)
    return Geometry(norm, cosh([_MATRIX, _VECTOR], norm), joined(parts, radii), zeta)


def _vector(norm: Norm, zeta: float) -> Geometry:
    return Geometry(norm, cosh(_VECTOR, norm), quadratic((*_SPECTRUM, 1.0), norm), zeta)


def _spectral() -> Geometry:
    norm = Spectral("plain")
    return Geometry(norm, cosh(_MATRIX, norm), quadratic(_SPECTRUM, norm, 3), math.sqrt(3))


GEOMETRIES: dict[str, Callable[[], Geometry]] = {
    "Euclidean": lambda: _vector(Euclidean(), 1.0),
    "Sign": lambda: _vector(_SIGN, math.sqrt(5)),
    "Spectral": _spectral,
    "Product": _product,
}
