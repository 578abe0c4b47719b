"""Orthogonal polar factors `U V^T`, each with a stated accuracy."""

from normball.polar.base import Polar
from normball.polar.choose import Auto
from normball.polar.exact import SVD, Eigh
from normball.polar.half import Half
from normball.polar.iterative import NewtonSchulz, Nonic, PolarExpress, polar_express_coefficients

__all__ = [
    "SVD",
    "Auto",
    "Eigh",
    "Half",
    "NewtonSchulz",
    "Nonic",
    "Polar",
    "PolarExpress",
    "polar_express_coefficients",
]
