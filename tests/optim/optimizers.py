"""One row enrols an optimizer in the shared tests."""

from dataclasses import dataclass, field
from functools import partial
from typing import Any

from normball import ClippedScion, Scion


@dataclass(frozen=True)
class Row:
    make: Any
    name: str
    constrained: bool = False
    options: dict[str, Any] = field(default_factory=dict)

    def __call__(self, params, lr=0.01, **options):
        return self.make(params, lr, **{**self.options, **options})

    def __str__(self):
        return self.name


OPTIMIZERS = [
    Row(Scion, "scion"),
    Row(Scion, "scion-constrained", constrained=True, options={"constrained": True}),
    Row(ClippedScion, "clipped", options={"rho": 1.5}),
    Row(
        partial(ClippedScion, constrained=True),
        "short-step-2",
        constrained=True,
        options={"rho": 1.5},
    ),
    Row(
        partial(ClippedScion, constrained=True, variant=1),
        "short-step-1",
        constrained=True,
        options={"rho": 1.5},
    ),
]
