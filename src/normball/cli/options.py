"""The options of the commands: each once, with its help, and how its text is read.

The lab's own messages say what is wrong with a value.
"""

import inspect
import re
from collections.abc import Callable
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, get_args, get_type_hints

import typer

from normball.lab.config import RunConfig, flag, read_step
from normball.lab.errors import LabError

Read = Callable[[str, str], Any]
_TIME = re.compile(r"(\d{1,6}(?:\.\d{1,6})?)\s*([smh])")
_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0}


def _reader(kind: Callable[[str], Any], what: str) -> Read:
    """Reads a value, and refuses others by name. Its range is for others to judge."""

    def read(option: str, text: str) -> Any:
        try:
            return kind(text)
        except ValueError:
            raise LabError(f"{option} must be {what}, got {text!r}.") from None

    return read


_step = _reader(read_step, "a positive number such as 0.03125 or 2^-5")
_number = _reader(float, "a number")
_whole = _reader(int, "a whole number")


def _threshold(option: str, text: str) -> float:
    if text == "auto":
        raise LabError(
            f"{option} must be a number, got 'auto': leave it out, and take the optimizer "
            "clipped-scion-auto, which measures it."
        )
    return _number(option, text)  # type: ignore[no-any-return]


def _positive(option: str, text: str) -> int:
    value: int = _whole(option, text)
    if value < 1:
        raise LabError(f"{option} must be 1 or more, got {value}.")
    return value


def _name(option: str, text: str) -> str:
    if not text:
        raise LabError(f"{option} has an empty name.")
    return text


def _listed(read: Read) -> Read:
    return lambda option, text: tuple(read(option, part.strip()) for part in text.split(","))


def parse_time(option: str, text: str) -> float:
    """Seconds of a time such as ``90s``, ``60m`` or ``3h``; a LabError names the option."""
    found = _TIME.fullmatch(text.strip())
    if found is None:
        raise LabError(f"{option} must be a time such as 90s, 60m or 3h, got {text!r}.")
    return float(found[1]) * _UNITS[found[2]]


def _option(option: str, metavar: str, text: str, read: Read | None = None) -> Any:
    parser = None if read is None else lambda given: read(option, given)
    return typer.Option(option, metavar=metavar, help=text, parser=parser)


def _switch(option: str, text: str) -> Any:
    return typer.Option(option, help=text)


def _argument(metavar: str, text: str) -> Any:
    return typer.Argument(metavar=metavar, help=text)


_TASKS = "digits, fashion-mnist, cifar10, shakespeare, shakespeare-gpt2, fineweb, imagenet."
_ALL = "default, adam, scion, clipped-scion, clipped-scion-auto, adamw, muon, sgd-clip."
_WITH_NORMS = "One with norms: default, scion, clipped-scion or clipped-scion-auto."
_ENGINES = "local, or ray: at RAY_ADDRESS, else on this machine."
_SCALES = "cpu: minutes; gpu: a GPU's hours; paper: as published."
_UNTIL = "Add fresh seeds in pairs until all claims are decided."
_RESUME = "Go on from the last checkpoint in --out, if any."
_DATA = "fashion-mnist, cifar10, shakespeare, gpt2-tokens, pydataset."
_BUDGET = "Begin no run after 90s, 60m or 3h of this sitting."
_JOBS = "Processes at a time; by default one for each core."


def _folder(text: str) -> Any:
    return _option("--out", "DIR", text)


TaskName = Annotated[str, _argument("TASK", _TASKS)]
FigureName = Annotated[str, _argument("FIGURE", "fig1 to fig11.")]
ResultsFolder = Annotated[Path, _argument("DIR", "Folder of results.")]
DataName = Annotated[str, _argument("DATA", _DATA)]
Optimizer = Annotated[str, _option("--optimizer", "NAME", _ALL)]
NormBallOptimizer = Annotated[str, _option("--optimizer", "NAME", _WITH_NORMS)]
EngineName = Annotated[str, _option("--engine", "NAME", _ENGINES)]
Scale = Annotated[str, _option("--scale", "NAME", _SCALES)]
Jobs = Annotated[int | None, _option("--jobs", "N", _JOBS, _positive)]
Every = Annotated[int, _option("--every", "K", "Measure once in so many steps.", _positive)]
Steps = Annotated[int, _option("--n", "N", "Steps of every run, at least 100.", _whole)]
Budget = Annotated[float | None, _option("--budget", "TIME", _BUDGET, parse_time)]
Resume = Annotated[bool, _switch("--resume", _RESUME)]
UntilDecided = Annotated[bool, _switch("--until-decided", _UNTIL)]
RunFolderPath = Annotated[Path, _folder("Folder for the rows, the figure and the report.")]
RowFolderPath = Annotated[
    Path | None, _folder("Folder for checkpoints and the finished run's row.")
]
SmoothnessFolder = Annotated[Path | None, _folder("Folder for the picture and the measurements.")]
CurveFolder = Annotated[Path | None, _folder("Folder for the picture.")]
ArenaFolder = Annotated[Path, _folder("Folder for the rules, the runs and the page.")]
RatesFolder = Annotated[Path, _folder("Folder for the table and the figures.")]
PagePath = Annotated[Path | None, _option("--out", "FILE", "The page; DIR/index.html by default.")]
TensorBoard = Annotated[
    Path | None, _option("--tensorboard", "DIR", "Folder for TensorBoard's scalars.")
]
Quick = Annotated[bool, _switch("--quick", "Six tasks, two settings, two seeds: ten minutes.")]
Demo = Annotated[bool, _switch("--demo", "Two tasks, AdamW and ours: three minutes.")]
Tasks = Annotated[str | None, _option("--tasks", "A,B", "In this sitting, these tasks only.")]
Methods = Annotated[str | None, _option("--methods", "A,B", "In this sitting, these methods only.")]


def _setting(name: str) -> inspect.Parameter:
    """The option of a setting of runs, as ``RunConfig`` has it; None leaves it to the task."""
    hint = get_type_hints(RunConfig, include_extras=True)[name]
    kinds, (text,) = get_args(hint.__origin__) or (hint.__origin__,), hint.__metadata__
    (kind,) = {*kinds} - {NoneType}
    if kind is bool:
        return _parameter(name, Annotated[bool | None, _switch(flag(name), text)])
    metavar, read = {float: ("X", _number), int: ("N", _whole), str: ("NAME", None)}[kind]
    if name == "lr":
        metavar, read = "STEP", _step
    if name == "rho":
        read = _threshold
    default = {"schedule": "constant", "precision": "float32", "seed": "0"}.get(name)
    return _parameter(
        name, Annotated[Any, _option(flag(name), metavar, text, read or _text)], default
    )


def _text(_: str, text: str) -> str:
    return text


def _list(
    name: str, metavar: str, text: str, read: Read, default: str | None = None
) -> inspect.Parameter:
    option = _option(flag(name), metavar, text, _listed(read))
    return _parameter(name, Annotated[Any, option], default)


def _parameter(name: str, annotation: Any, default: str | None = None) -> inspect.Parameter:
    kind = inspect.Parameter.KEYWORD_ONLY
    return inspect.Parameter(name, kind, default=default, annotation=annotation)


_SHARED = (
    "alpha", "constrained", "variant", "epochs", "batch_size", "schedule", "warmup",
    "weight_decay", "model", "width", "train_size", "test_size", "accumulate", "precision",
)  # fmt: skip
_OTHERS = "Some of those of train, with commas."
_SCHEDULES = _list("schedule", "NAMES", _OTHERS, _name, "constant")
# The settings of a run, of a sweep's runs, of a range test, and the seeds of the rates.
RUN = tuple(map(_setting, ("lr", "rho", *_SHARED, "seed")))
SWEEP = (
    _list("optimizers", "NAMES", _OTHERS, _name, "scion,clipped-scion"),
    _list("lr", "STEPS", "Step sizes, such as 2^-6,2^-5.", _step),
    _list("rho", "RHOS", "Clipping thresholds, with commas.", _threshold),
    _list("seeds", "SEEDS", "Seeds, with commas.", _whole, "0,1,2"),
    *(_SCHEDULES if name == "schedule" else _setting(name) for name in _SHARED),
)
RANGE_TEST = tuple(
    map(_setting, ("alpha", "constrained", "batch_size", "model", "width", "train_size", "seed"))
)
RATES = (_list("seeds", "SEEDS", "Seeds, with commas.", _whole, "0,1,2,3,4,5,6,7"),)


def takes(
    options: tuple[inspect.Parameter, ...],
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Let Typer give a command options as further arguments.

    Args:
        options: listed in the help in this order, after what the command requires.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        signature = inspect.signature(command)
        own = [
            p.replace(kind=p.KEYWORD_ONLY)
            for p in signature.parameters.values()
            if p.kind is not p.VAR_KEYWORD
        ]
        required = [p for p in own if p.default is p.empty]
        command.__signature__ = signature.replace(  # type: ignore[attr-defined]
            parameters=[*required, *options, *own[len(required) :]]
        )
        return command

    return decorate
