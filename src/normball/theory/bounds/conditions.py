"""The conditions of the statements."""

import math

# A natural choice, such as gamma = 1/(L0 + rho L1), must not be refused for its rounding error.
LIMIT = 1 + 1e-12


def require(holds: bool, condition: str, **values: float) -> None:
    """Raise `ValueError` with the condition and the values, unless it holds."""
    if not holds:
        given = ", ".join(f"{name}={value:g}" for name, value in values.items())
        raise ValueError(f"the condition {condition} does not hold for {given}")


def check(n: int = 1, **positive: float) -> None:
    """Require a number of steps of at least 1, and finite positive numbers."""
    require(n >= 1, "n >= 1", n=n)
    for name, value in positive.items():
        require(0 < value < math.inf, f"{name} > 0", **{name: value})


def check_gap(**values: float) -> None:
    """Require finite numbers that are not negative."""
    for name, value in values.items():
        require(0 <= value < math.inf, f"{name} >= 0", **{name: value})


def check_ggnc(gamma: float, rho: float, L0: float, L1: float) -> None:
    """Require the condition of Thm 4.3."""
    check(gamma=gamma, rho=rho)
    check_gap(L0=L0, L1=L1)
    require(
        gamma * (L0 + rho * L1) <= LIMIT,
        "gamma <= 1/(L0 + rho L1)",
        gamma=gamma,
        rho=rho,
        L0=L0,
        L1=L1,
    )


def check_s3cg(gamma: float, rho: float, L: float, beta: float) -> None:
    """Require the conditions of Thm 4.7."""
    check(gamma=gamma, rho=rho, beta=beta)
    check_gap(L=L)
    require(gamma * L <= LIMIT, "gamma <= 1/L", gamma=gamma, L=L)
    require(gamma * rho <= LIMIT, "gamma rho <= 1", gamma=gamma, rho=rho)
