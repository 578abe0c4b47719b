"""Optimizers that step on norm balls: generalized gradient norm clipping in any norm."""

from importlib.metadata import version

from normball import norms, polar, steps
from normball.optim import ClippedScion, Scion

__version__ = version("normball")

__all__ = ["ClippedScion", "Scion", "__version__", "norms", "polar", "steps"]
