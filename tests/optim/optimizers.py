"""One row enrols an optimizer in the shared tests."""

from dataclasses import dataclass, field
from typing import Any

from normball import GGNC, S3CG, ClippedScion, Scion
from normball.norms import Euclidean, Lp, Sign
from tests.optim.network import groups


@dataclass(frozen=True)
class Row:
    """How to make an optimizer, called `make(params, lr, **options)`.

    `layered` optimizers have a norm for every group; the others one for all, and their step size
    goes by the name `gamma`. `learns_at` is a step at which the small network learns quickly.
    """

    make: Any
    name: str
    options: dict[str, Any] = field(default_factory=dict)
    layered: bool = True
    learns_at: float = 0.02

    def __call__(self, params, lr=0.01, **options):
        options = {**self.options, **options}
        if self.layered:
            return self.make(params, lr, **options)
        return self.make(params, gamma=lr, **options)

    def groups(self, model, polar=None):
        """Return the groups of the test network that this optimizer takes."""
        made = groups(model, polar)
        return made if self.layered else [{"params": g["params"]} for g in made]

    @property
    def step_name(self):
        return "lr" if self.layered else "gamma"

    @property
    def kept(self):
        """The names of what its state has of a parameter."""
        return {"momentum", "average"} if "average" in self.options else {"momentum"}

    def estimate(self, optimizer, p):
        """Return what the last step of the optimizer went by, from its state and the gradient."""
        d = optimizer.state[p]["momentum"]
        if not self.options.get("nesterov", False):
            return d
        alpha = optimizer.param_groups[0]["alpha"]
        return (1 - alpha) * d + alpha * p.grad

    @property
    def constrained(self):
        return self.make is S3CG or self.options.get("constrained", False)

    def __str__(self):
        return self.name


PLAIN = {"nesterov": False}
SHORT = {**PLAIN, "rho": 1.5, "constrained": True}
LAYERED = [
    Row(Scion, "scion", PLAIN),
    Row(Scion, "scion-constrained", {**PLAIN, "constrained": True}),
    Row(ClippedScion, "clipped", {**PLAIN, "rho": 1.5}),
    Row(ClippedScion, "short-step-1", {**SHORT, "variant": 1}),
    Row(ClippedScion, "short-step-2", {**SHORT, "variant": 2}),
    Row(ClippedScion, "recipe", {"rho": 1.5, "nesterov": True, "average": 0.1}),
    Row(Scion, "scion-ahead", {"nesterov": True, "average": 0.3, "constrained": True}),
    Row(
        ClippedScion,
        "short-step-1-ahead",
        {"rho": 1.5, "constrained": True, "variant": 1, "nesterov": True, "average": 1.0},
    ),
]
JOINT = [
    Row(GGNC, "ggnc-euclidean", {"rho": 1.5, "norm": Euclidean(), "alpha": 0.1}, False, 0.5),
    Row(GGNC, "ggnc-lp", {"rho": 1.5, "norm": Lp(3.0), "alpha": 0.1}, False, 0.3),
    Row(
        GGNC,
        "ggnc-ahead",
        {"rho": 1.5, "norm": Euclidean(), "alpha": 0.1, "nesterov": True, "average": 0.1},
        False,
        0.5,
    ),
    Row(
        S3CG,
        "s3cg-1",
        {"rho": 1.5, "beta": 2.0, "norm": Sign(False), "alpha": 0.1},
        False,
        0.05,
    ),
    Row(
        S3CG,
        "s3cg-2",
        {"rho": 1.5, "beta": 2.0, "norm": Sign(False), "alpha": 0.1, "variant": 2},
        False,
        0.1,
    ),
    Row(
        S3CG,
        "s3cg-1-ahead",
        {
            "rho": 1.5,
            "beta": 2.0,
            "norm": Sign(False),
            "alpha": 0.1,
            "nesterov": True,
            "average": 0.5,
        },
        False,
        0.05,
    ),
]
GIVEN = LAYERED + JOINT
MEASURED = [
    Row(ClippedScion, "measured", {**PLAIN, "rho": "auto"}, learns_at=0.1),
    Row(ClippedScion, "measured-1", {**SHORT, "rho": "auto", "variant": 1}),
    Row(ClippedScion, "measured-2", {**SHORT, "rho": "auto"}),
    Row(ClippedScion, "measured-ahead", {"rho": "auto", "nesterov": True, "average": 0.1}),
]  # the threshold is measured
OPTIMIZERS = GIVEN + MEASURED
