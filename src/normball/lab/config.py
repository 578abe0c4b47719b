"""Everything that decides a run's outcome, as one flat record."""

import json
import math
from dataclasses import asdict, dataclass
from typing import Annotated, Any

from normball.lab.errors import LabError
from normball.lab.fields import read
from normball.lab.registry import look_up

SCHEDULES = ("constant", "linear", "cosine", "trapezoidal")
PRECISIONS = ("float32", "bfloat16")
_POSITIVE = (
    "lr", "epochs", "batch_size", "rho", "input_radius", "radius", "output_radius", "width",
    "train_size", "test_size", "accumulate",
)  # fmt: skip


@dataclass(frozen=True)
class RunConfig:
    """One training run's settings; equal settings on one machine give equal weights, bit for bit.

    The sentence beside a setting is also the help of its option. A setting that the optimizer does
    not have is None.

    Raises:
        LabError: if a value is out of its range; the message names the value.
    """

    task: str
    optimizer: str
    lr: Annotated[float, "The step size, such as 0.03 or 2^-5."]
    seed: Annotated[int, "Seed of the weights and of the order of the data."]
    epochs: Annotated[int, "Passes over the training data; of text, as many times 50 steps."]
    # Over all processes and accumulated parts.
    batch_size: Annotated[int, "Examples a step."]
    alpha: Annotated[float | None, "Weight of the new gradient, in (0, 1]; for the Scions."] = None
    # For sgd-clip on the Euclidean norm of the gradient.
    rho: Annotated[float | None, "Clipping threshold; for clipped-scion and sgd-clip."] = None
    constrained: Annotated[bool | None, "Keep the weights in the norm ball."] = None
    variant: Annotated[int | None, "1 or 2: form of the constrained clipped step."] = None
    # Of the norm balls of the first layer, of those in between, and of the last layer.
    input_radius: float | None = None
    radius: float | None = None
    output_radius: float | None = None
    schedule: Annotated[str, "constant, linear, cosine or trapezoidal."] = "constant"
    model: Annotated[str, "The network; that of the task by default."] = "cnn"
    width: Annotated[float, "Factor on the network's widths."] = 1.0
    train_size: Annotated[int | None, "Use so many training images."] = None
    test_size: Annotated[int | None, "Use so many test images, or windows of text."] = None
    warmup: Annotated[float, "Share of the steps in which the step size grows."] = 0.0
    accumulate: Annotated[int, "Parts of a mini-batch, one after the other."] = 1
    precision: Annotated[str, "float32, or bfloat16 for autocast."] = "float32"
    # The share of the weights that a step of size 1 takes away.
    weight_decay: Annotated[float | None, "Weight decay; for adamw and muon."] = None

    def __post_init__(self) -> None:
        for name in _POSITIVE:
            value = getattr(self, name)
            if value is not None and not (value > 0 and math.isfinite(value)):
                raise LabError(f"{flag(name)} must be a positive number, got {value}.")
        if not 0 <= self.seed < 2**63:
            raise LabError(f"a seed must be at least 0 and below 2^63, got {self.seed}.")
        for name, known in (("schedule", SCHEDULES), ("precision", PRECISIONS)):
            look_up(name, getattr(self, name), dict.fromkeys(known))
        alpha = 1.0 if self.alpha is None else self.alpha
        decay, rest = self.weight_decay or 0.0, self.batch_size % self.accumulate
        share = "it is the share of the way to the edge of the ball"
        part = "it is a share of the run"
        weight = "it is the weight of the new gradient, 1 means no momentum"
        for name, right, must, why in (
            ("lr", self.lr <= 1 or not self.constrained, "be at most 1 with --constrained", share),
            ("alpha", 0 < alpha <= 1, "be above 0 and at most 1", weight),
            ("variant", self.variant in (None, 1, 2), "be 1 or 2", ""),
            ("warmup", 0 <= self.warmup < 1, "be at least 0 and below 1", part),
            ("weight_decay", 0 <= decay < math.inf, "be 0 or more", ""),
            ("accumulate", not rest, f"divide the batch size {self.batch_size}", ""),
        ):
            if not right:
                given = f"{getattr(self, name)}{f': {why}' if why else ''}"
                raise LabError(f"{flag(name)} must {must}, got {given}.")

    def key(self) -> str:
        """One string per set of settings, equal exactly when the settings are."""
        return json.dumps(asdict(self), sort_keys=True)

    def describe(self) -> str:
        """The run in a few words: optimizer, step size, what else a sweep varies, and seed."""
        threshold = "" if self.rho is None else f", rho {self.rho:g}"
        schedule = "" if self.schedule == "constant" else f", {self.schedule}"
        step = f"step {format_step(self.lr)}{schedule}{threshold}"
        return f"{self.optimizer}, {step}, seed {self.seed}"

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "RunConfig":
        """The configuration written by ``dataclasses.asdict``; else a LabError that names a field.

        Rows from before there was a setting lack it: it had the value that is the default.
        """
        try:
            return read(cls, values)  # type: ignore[no-any-return]
        except ValueError as error:
            raise LabError(f"the settings are not usable: {error}.") from None


def flag(name: str) -> str:
    """A setting's name as the command line writes it."""
    return "--" + name.replace("_", "-")


def read_step(text: str) -> float:
    """A step size, written as a number or as a power: ``0.03125`` or ``2^-5``.

    Raises:
        ValueError: if it is no positive number.
    """
    base, caret, exponent = text.partition("^")
    try:
        value = float(base) ** float(exponent) if caret else float(base)
    except (ValueError, OverflowError, ZeroDivisionError):
        value = math.inf
    if isinstance(value, complex) or not 0 < value < math.inf:
        raise ValueError(f"{text!r} is no step size")
    return value


def format_step(lr: float) -> str:
    """A step size for reading: ``2^-5`` for a power of two, else three digits."""
    mantissa, exponent = math.frexp(lr)
    return f"2^{exponent - 1}" if mantissa == 0.5 else f"{lr:.3g}"
