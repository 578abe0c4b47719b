"""The methods' names, and which parameters each takes."""

import difflib
import math
from dataclasses import dataclass
from numbers import Real

BACKTRACKING = "backtracking"
ADAGRAD = "adagrad"


@dataclass(frozen=True)
class Method:
    """A method of `minimize`.

    Attributes:
        name: as the user writes it.
        takes: the parameters that it needs when `gamma` is a number.
        searches: the step sizes without constants that it can use.
        measures_corner: whether the step needs `||w||`.
    """

    name: str
    takes: tuple[str, ...]
    searches: tuple[str, ...] = ()
    measures_corner: bool = False

    @property
    def constrained(self) -> bool:
        """Whether it stays in a ball."""
        return "beta" in self.takes

    def check(
        self,
        *,
        gamma: float | str | None,
        rho: float | None,
        beta: float | None,
        alpha: float,
    ) -> None:
        """Raise an error for a parameter that is missing, unknown, not a number or out of range."""
        given = {"gamma": gamma, "rho": rho, "beta": beta}
        free = isinstance(gamma, str)
        if isinstance(gamma, str):
            self._check_search(gamma, alpha)
        optional = {"rho"} if free else set()
        not_taken = {"rho"} if free and self.constrained else set()
        for name, value in given.items():
            takes = name in self.takes and name not in not_taken
            if value is not None and not takes:
                when = f" with gamma={gamma!r}" if name in not_taken else ""
                raise ValueError(f"method {self.name!r} takes no {name}{when}")
            if value is None and takes and name not in optional:
                raise ValueError(f"method {self.name!r} needs {name}")
            if value is None or (free and name == "gamma"):
                continue
            check_number(name, value)
            if not 0 < float(value) < math.inf:
                raise ValueError(f"{name}={value} must be positive and finite")
        check_number("alpha", alpha)
        if not 0 < alpha <= 1:
            raise ValueError(f"alpha={alpha} must lie in (0, 1]")
        if not isinstance(gamma, str) and gamma is not None:
            self._check_ball(gamma, rho)

    def _check_search(self, gamma: str, alpha: float) -> None:
        if gamma not in (BACKTRACKING, ADAGRAD):
            raise ValueError(f"gamma={gamma!r} must be a number, {BACKTRACKING!r} or {ADAGRAD!r}")
        if gamma not in self.searches:
            raise ValueError(f"method {self.name!r} has no gamma={gamma!r}")
        if gamma == BACKTRACKING and alpha != 1:
            raise ValueError(
                f"gamma={BACKTRACKING!r} compares values along the gradient: it needs alpha=1, got "
                f"alpha={alpha}"
            )

    def _check_ball(self, gamma: float, rho: float | None) -> None:
        if self.name == "cg" and gamma > 1:
            raise ValueError(f"gamma={gamma} must be at most 1: a longer step leaves the ball")
        if self.constrained and rho is not None and gamma * rho > 1:
            raise ValueError(
                f"gamma*rho={gamma * rho:g} must be at most 1: a longer step leaves the ball"
            )


_BOTH = (BACKTRACKING, ADAGRAD)
METHODS = {
    method.name: method
    for method in (
        Method("sd", ("gamma",), _BOTH),
        Method("ucg", ("gamma", "rho")),
        Method("ggnc", ("gamma", "rho"), _BOTH),
        Method("cg", ("gamma", "beta")),
        Method("short-step", ("gamma", "beta"), _BOTH, measures_corner=True),
        Method("s3cg-1", ("gamma", "rho", "beta"), (BACKTRACKING,), measures_corner=True),
        Method("s3cg-2", ("gamma", "rho", "beta"), _BOTH),
    )
}


def check_number(name: str, value: object) -> None:
    """Raise TypeError for a value that is not a real number."""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name}={value!r} must be a number")


def find_method(name: str) -> Method:
    """Return the method of that name.

    Raises:
        ValueError: no method has that name; the message lists all names and the nearest one.
    """
    if isinstance(name, str) and name in METHODS:
        return METHODS[name]
    near = difflib.get_close_matches(str(name), METHODS, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise ValueError(f"method={name!r} must be one of {', '.join(METHODS)}{hint}")
