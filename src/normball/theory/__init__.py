"""The theory as code: minimisation, problems with known constants, bounds, and rates."""

from normball.theory import bounds, noise, printed, problems
from normball.theory.minimize import History, Iterate, Result, minimize
from normball.theory.rates import run_rates

__all__ = [
    "History",
    "Iterate",
    "Result",
    "bounds",
    "minimize",
    "noise",
    "printed",
    "problems",
    "run_rates",
]
