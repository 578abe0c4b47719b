"""The guarantees, one function per statement, with the constants that their proofs give.

`n` is the number of steps, `delta = f(x_1) - inf f` (over the ball for the constrained methods),
`L0`, `L1`, `L` the smoothness constants in the method's norm, all positive unless said otherwise.
Dual norms and Wolfe gaps are returned in the units of the problem. Each function raises
`ValueError` if its parameters violate a condition, and names that condition. The proofs are in
docs/theory.md. Statements of the paper that do not hold are in `normball.theory.printed`.

Examples:
    >>> from normball.theory import bounds
    >>> round(bounds.ggnc(100, 1.0, gamma=0.5, rho=1.0, L0=1.0, L1=1.0), 4)  # sqrt(0.04) + 0.04
    0.24
    >>> round(bounds.ggnc(400, 1.0, gamma=0.5, rho=1.0, L0=1.0, L1=1.0), 4)
    0.11
    >>> bounds.ggnc(100, 1.0, gamma=1.0, rho=1.0, L0=1.0, L1=1.0)
    Traceback (most recent call last):
    ValueError: the condition gamma <= 1/(L0 + rho L1) does not hold for gamma=1, rho=1, L0=1, L1=1
"""

from normball.theory.bounds.free import (
    adagrad,
    adagrad_gap,
    backtracking_ggnc,
    backtracking_short_step,
    backtracking_threshold,
)
from normball.theory.bounds.known import (
    ggnc,
    ggnc_descent,
    s3cg,
    s3cg_descent,
    ucg,
    ucg_relative,
    ucg_relative_half,
    ucg_relative_printed,
)
from normball.theory.bounds.measured import measured_lengths, measured_threshold
from normball.theory.bounds.noisy import (
    average_gap,
    ggnc_error,
    ggnc_stochastic,
    ggnc_stochastic_parameters,
    momentum_error,
    s3cg_error,
    s3cg_stochastic,
    s3cg_stochastic_parameters,
)

__all__ = [
    "adagrad",
    "adagrad_gap",
    "average_gap",
    "backtracking_ggnc",
    "backtracking_short_step",
    "backtracking_threshold",
    "ggnc",
    "ggnc_descent",
    "ggnc_error",
    "ggnc_stochastic",
    "ggnc_stochastic_parameters",
    "measured_lengths",
    "measured_threshold",
    "momentum_error",
    "s3cg",
    "s3cg_descent",
    "s3cg_error",
    "s3cg_stochastic",
    "s3cg_stochastic_parameters",
    "ucg",
    "ucg_relative",
    "ucg_relative_half",
    "ucg_relative_printed",
]
