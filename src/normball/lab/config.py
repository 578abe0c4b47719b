"""Everything that decides a run's outcome, as one flat record."""

import json
import math
from dataclasses import MISSING, asdict, dataclass, fields
from typing import Any, get_type_hints

from normball.lab.errors import LabError, unknown
from normball.lab.fields import fits

SCHEDULES = ("constant", "linear", "cosine", "trapezoidal")
PRECISIONS = ("float32", "bfloat16")
_POSITIVE = (
    "lr",
    "epochs",
    "batch_size",
    "rho",
    "input_radius",
    "radius",
    "output_radius",
    "width",
    "train_size",
    "test_size",
    "accumulate",
)


@dataclass(frozen=True)
class RunConfig:
    """One training run's settings; equal settings on one machine give equal weights, bit for bit.

    A setting that the optimizer does not have is None.

    Attributes:
        task: name of the task.
        optimizer: name of the optimizer.
        lr: the step size, at its largest.
        seed: seed of the initial weights and of the order of the data, in [0, 2^63).
        epochs: passes over the training data; of text, as many times 50 steps.
        batch_size: examples a step, over all processes and accumulated parts.
        alpha: weight of the new gradient in the momentum, in (0, 1].
        rho: clipping threshold; of ``sgd-clip`` on the Euclidean norm of the gradient.
        constrained: whether the weights stay in the norm ball.
        variant: 1 or 2, the form of the constrained clipped step.
        input_radius: radius of the first layer's norm ball.
        radius: radius of the norm balls in between.
        output_radius: radius of the last layer's norm ball.
        schedule: one of ``SCHEDULES``, as ``make_schedule`` says.
        model: name of the network.
        width: factor on the network's widths.
        train_size: how many of the training examples are used; all when None.
        test_size: how many of the test examples, likewise.
        warmup: share of the steps over which the step size grows from 0, in [0, 1).
        accumulate: parts in which a mini-batch goes through the network, one after the other.
        precision: ``"float32"``, or ``"bfloat16"`` for autocast.
        weight_decay: share of the weights that a step of size 1 takes away.

    Raises:
        LabError: if a value is out of its range; the message names the value.
    """

    task: str
    optimizer: str
    lr: float
    seed: int
    epochs: int
    batch_size: int
    alpha: float | None = None
    rho: float | None = None
    constrained: bool | None = None
    variant: int | None = None
    input_radius: float | None = None
    radius: float | None = None
    output_radius: float | None = None
    schedule: str = "constant"
    model: str = "cnn"
    width: float = 1.0
    train_size: int | None = None
    test_size: int | None = None
    warmup: float = 0.0
    accumulate: int = 1
    precision: str = "float32"
    weight_decay: float | None = None

    def __post_init__(self) -> None:
        for name in _POSITIVE:
            value = getattr(self, name)
            if value is not None and not (value > 0 and math.isfinite(value)):
                raise LabError(f"{flag(name)} must be a positive number, got {value}.")
        if self.constrained and self.lr > 1:
            raise LabError(
                f"--lr must be at most 1 with --constrained, got {self.lr}: it is the share of the "
                "way to the edge of the ball."
            )
        if not 0 <= self.seed < 2**63:
            raise LabError(f"a seed must be at least 0 and below 2^63, got {self.seed}.")
        if self.alpha is not None and not 0 < self.alpha <= 1:
            raise LabError(
                f"--alpha must be above 0 and at most 1, got {self.alpha}: it is the weight of "
                "the new gradient, 1 means no momentum."
            )
        if self.variant not in (None, 1, 2):
            raise LabError(f"--variant must be 1 or 2, got {self.variant}.")
        if self.schedule not in SCHEDULES:
            raise unknown("schedule", self.schedule, SCHEDULES)
        if self.precision not in PRECISIONS:
            raise unknown("precision", self.precision, PRECISIONS)
        if not 0 <= self.warmup < 1:
            raise LabError(
                f"--warmup must be at least 0 and below 1, got {self.warmup}: it is a share of the "
                "run."
            )
        if self.weight_decay is not None and not 0 <= self.weight_decay < math.inf:
            raise LabError(f"--weight-decay must be 0 or more, got {self.weight_decay}.")
        if self.batch_size % self.accumulate:
            raise LabError(
                f"--accumulate must divide the batch size {self.batch_size}, got {self.accumulate}."
            )

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
        """The configuration written by ``dataclasses.asdict``.

        Args:
            values: one entry per field, of the field's type; rows from before there was a setting
                lack it, and it had the value that is the default.

        Raises:
            LabError: if a field is missing, unknown, or of another type.
        """
        kinds = get_type_hints(cls)
        needed = {field.name for field in fields(cls) if field.default is MISSING}
        if wrong := sorted((set(values) - set(kinds)) | (needed - set(values))):
            raise LabError(f"the settings lack or do not know {', '.join(wrong)}.")
        for name, value in values.items():
            if not fits(value, kinds[name]):
                raise LabError(f"the setting {name} has the value {value!r}.")
        return cls(**values)


def flag(name: str) -> str:
    """A setting's name as the command line writes it.

    Args:
        name: a field of ``RunConfig``.
    """
    return "--" + name.replace("_", "-")


def read_step(text: str) -> float | None:
    """A step size, written as a number or as a power: ``0.03125`` or ``2^-5``.

    Args:
        text: what was written.

    Returns:
        None where it is no positive number.
    """
    base, caret, exponent = text.partition("^")
    try:
        value = float(base) ** float(exponent) if caret else float(base)
    except (ValueError, OverflowError, ZeroDivisionError):
        return None
    if isinstance(value, complex) or not (value > 0 and math.isfinite(value)):
        return None
    return value


def format_step(lr: float) -> str:
    """A step size for reading: ``2^-5`` for a power of two, else three digits.

    Args:
        lr: the step size, positive.
    """
    mantissa, exponent = math.frexp(lr)
    return f"2^{exponent - 1}" if mantissa == 0.5 else f"{lr:.3g}"
