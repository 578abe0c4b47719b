"""Optimizers that step on norm balls: generalized gradient norm clipping in any norm."""

from normball import norms, polar, steps
from normball.balls import init_, project_
from normball.groups import param_groups
from normball.optim import GGNC, S3CG, ClippedScion, Scion, SmoothnessProbe, find_lr
from normball.theory.minimize import minimize

__version__ = "0.1.0"

__all__ = [
    "GGNC",
    "S3CG",
    "ClippedScion",
    "Scion",
    "SmoothnessProbe",
    "__version__",
    "find_lr",
    "init_",
    "minimize",
    "norms",
    "param_groups",
    "polar",
    "project_",
    "steps",
]
