"""The options that are settings of runs: each once, with its help and how it is read."""

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

import typer

from normball.cli.options import (
    parse_list,
    parse_name,
    parse_number,
    parse_step,
    parse_threshold,
    parse_whole,
)
from normball.lab.config import flag

Read = Callable[[str, str], Any]


@dataclass(frozen=True)
class Setting:
    """An option of a command that is a setting of its runs.

    Attributes:
        name: of the setting, as in `RunConfig` or in the lab's function that takes it.
        metavar: what the help has in the place of a value.
        help: one sentence.
        read: makes the value of the option's flag and text; the lab's own messages say what is
            wrong with it.
        default: the text when the option is not given; None leaves the value to the task.
    """

    name: str
    metavar: str
    help: str
    read: Read
    default: str | None = None

    def parameter(self) -> inspect.Parameter:
        """The command's parameter, for Typer."""
        option = typer.Option(metavar=self.metavar, help=self.help)
        return self._parameter(Annotated[str | None, option], self.default)

    def value(self, given: Any) -> Any:
        """The setting's value.

        Args:
            given: what Typer has for the parameter.

        Raises:
            LabError: if the text cannot be read.
        """
        return None if given is None else self.read(flag(self.name), given)

    def _parameter(self, annotation: Any, default: Any) -> inspect.Parameter:
        kind = inspect.Parameter.KEYWORD_ONLY
        return inspect.Parameter(self.name, kind, default=default, annotation=annotation)


class Switch(Setting):
    """A setting that is on where its option is given, and else left to the task."""

    def __init__(self, name: str, text: str) -> None:
        super().__init__(name, "", text, _as_it_is)

    def parameter(self) -> inspect.Parameter:
        """The command's parameter, for Typer."""
        option = typer.Option(flag(self.name), help=self.help)
        return self._parameter(Annotated[bool, option], False)

    def value(self, given: Any) -> Any:
        """True, or None.

        Args:
            given: whether the option is.
        """
        return given or None


def takes(*settings: Setting) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command settings: options for Typer, and their values as arguments of the command.

    Args:
        settings: listed in the help in this order, after what the command requires.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        signature = inspect.signature(command)
        names = {setting.name for setting in settings}
        own = [
            p.replace(kind=p.KEYWORD_ONLY)
            for p in signature.parameters.values()
            if p.kind is not p.VAR_KEYWORD and p.name not in names
        ]
        required = [p for p in own if p.default is p.empty]
        optional = [p for p in own if p.default is not p.empty]
        added = [setting.parameter() for setting in settings]

        @functools.wraps(command)
        def read_and_call(**given: Any) -> None:
            values = {setting.name: setting.value(given.pop(setting.name)) for setting in settings}
            command(**given, **values)

        read_and_call.__signature__ = signature.replace(  # type: ignore[attr-defined]
            parameters=[*required, *added, *optional]
        )
        return read_and_call

    return decorate


def _listed(parse: Read) -> Read:
    return lambda option, text: parse_list(option, text, parse)


def _as_it_is(_: str, text: Any) -> Any:
    return text


LR = Setting("lr", "STEP", "The step size, such as 0.03 or 2^-5.", parse_step)
LRS = Setting("lr", "STEPS", "Step sizes, such as 2^-6,2^-5.", _listed(parse_step))
RHO = Setting("rho", "X", "Clipping threshold; for clipped-scion and sgd-clip.", parse_threshold)
RHOS = Setting("rho", "RHOS", "Clipping thresholds, with commas.", _listed(parse_threshold))
ALPHA = Setting(
    "alpha", "X", "Weight of the new gradient, in (0, 1]; for the Scions.", parse_number
)
CONSTRAINED = Switch("constrained", "Keep the weights in the norm ball.")
VARIANT = Setting("variant", "N", "1 or 2: form of the constrained clipped step.", parse_whole)
EPOCHS = Setting(
    "epochs", "N", "Passes over the training data; of text, as many times 50 steps.", parse_whole
)
BATCH_SIZE = Setting("batch_size", "N", "Examples a step.", parse_whole)
SCHEDULE = Setting(
    "schedule", "NAME", "constant, linear, cosine or trapezoidal.", _as_it_is, "constant"
)
SCHEDULES = Setting(
    "schedule", "NAMES", "Some of those of train, with commas.", _listed(parse_name), "constant"
)
WARMUP = Setting("warmup", "X", "Share of the steps in which the step size grows.", parse_number)
WEIGHT_DECAY = Setting("weight_decay", "X", "Weight decay; for adamw and muon.", parse_number)
MODEL = Setting("model", "NAME", "The network; that of the task by default.", _as_it_is)
WIDTH = Setting("width", "X", "Factor on the network's widths.", parse_number)
TRAIN_SIZE = Setting("train_size", "N", "Use so many training images.", parse_whole)
TEST_SIZE = Setting("test_size", "N", "Use so many test images, or windows of text.", parse_whole)
ACCUMULATE = Setting("accumulate", "N", "Parts of a mini-batch, one after the other.", parse_whole)
PRECISION = Setting("precision", "NAME", "float32, or bfloat16 for autocast.", _as_it_is, "float32")
SEED = Setting("seed", "N", "Seed of the weights and of the order of the data.", parse_whole, "0")
SEEDS = Setting("seeds", "SEEDS", "Seeds, with commas.", _listed(parse_whole), "0,1,2")
OPTIMIZERS = Setting(
    "optimizers", "NAMES", "Some of those of train, with commas.", _listed(parse_name),
    "scion,clipped-scion",
)  # fmt: skip
# What every run has.
RUN = (
    ALPHA, CONSTRAINED, VARIANT, EPOCHS, BATCH_SIZE, SCHEDULE, WARMUP, WEIGHT_DECAY, MODEL, WIDTH,
    TRAIN_SIZE, TEST_SIZE, ACCUMULATE, PRECISION,
)  # fmt: skip
# The same of a sweep's runs.
SWEPT = tuple(SCHEDULES if setting is SCHEDULE else setting for setting in RUN)
