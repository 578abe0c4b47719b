"""Optimizers over products of norm balls."""

from normball.optim.base import NormBallOptimizer
from normball.optim.clipped_scion import ClippedScion
from normball.optim.finder import LrCurve, find_lr
from normball.optim.joint import GGNC, S3CG
from normball.optim.probe import SmoothnessProbe
from normball.optim.scion import Scion

__all__ = [
    "GGNC",
    "S3CG",
    "ClippedScion",
    "LrCurve",
    "NormBallOptimizer",
    "Scion",
    "SmoothnessProbe",
    "find_lr",
]
