"""Norms, their duals, and the linear minimisation oracles of their unit balls."""

from normball.norms.base import Norm
from normball.norms.product import ByShape, Product
from normball.norms.rowcol import Column, Row
from normball.norms.spectral import Spectral, SpectralConv
from normball.norms.vector import RMS, Euclidean, Sign

__all__ = [
    "RMS",
    "ByShape",
    "Column",
    "Euclidean",
    "Norm",
    "Product",
    "Row",
    "Sign",
    "Spectral",
    "SpectralConv",
]
