"""The optimizers one can ask for by name, and the settings each of them has."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
from torch import nn

from normball import ClippedScion, Scion
from normball.groups import param_groups
from normball.lab.config import RunConfig, flag
from normball.lab.errors import LabError, unknown
from normball.lab.tasks import ScionSettings, Task, find_task

_RADII = ("input_radius", "radius", "output_radius")


@dataclass(frozen=True)
class OptimizerSpec:
    """An optimizer as the lab knows it.

    Attributes:
        name: the name on the command line.
        label: the name in a report.
        options: the fields of ``RunConfig`` it has, beside those that every run has.
        build: makes the optimizer for a model.
    """

    name: str
    label: str
    options: tuple[str, ...]
    build: Callable[[nn.Module, RunConfig], torch.optim.Optimizer]


def _adam(model: nn.Module, config: RunConfig) -> torch.optim.Optimizer:
    return torch.optim.Adam(model.parameters(), lr=config.lr)


def _groups(model: nn.Module, config: RunConfig) -> Any:
    # The paper's radius for biases, to which its figures belong.
    biases: dict[Any, Any] = {"*bias": {"radius": config.radius}}
    return param_groups(model, overrides=biases, **_given(config, *_RADII))


def _scion(model: nn.Module, config: RunConfig) -> torch.optim.Optimizer:
    options = _given(config, "alpha", "constrained")
    return Scion(_groups(model, config), lr=config.lr, **options)


def _clipped_scion(model: nn.Module, config: RunConfig) -> torch.optim.Optimizer:
    options = _given(config, "alpha", "constrained", "rho", "variant")
    return ClippedScion(_groups(model, config), lr=config.lr, **options)


def _given(config: RunConfig, *names: str) -> dict[str, Any]:
    options = {name: getattr(config, name) for name in names}
    return {name: value for name, value in options.items() if value is not None}


OPTIMIZERS: Mapping[str, OptimizerSpec] = MappingProxyType(
    {
        spec.name: spec
        for spec in (
            OptimizerSpec("adam", "Adam", (), _adam),
            OptimizerSpec("scion", "Scion", ("alpha", "constrained", *_RADII), _scion),
            OptimizerSpec(
                "clipped-scion",
                "Clipped Scion",
                ("alpha", "rho", "constrained", "variant", *_RADII),
                _clipped_scion,
            ),
        )
    }
)


def describe_groups(config: RunConfig) -> str:
    """The table of layers, norms and radii that a run's optimizer works with.

    Args:
        config: a run of an optimizer with radii.
    """
    with torch.random.fork_rng(devices=[]):
        return str(_groups(find_task(config.task).model(), config))


def find_optimizer(name: str) -> OptimizerSpec:
    """The optimizer of that name.

    Args:
        name: a key of ``OPTIMIZERS``.

    Raises:
        LabError: if there is none; the message offers the nearest name.
    """
    try:
        return OPTIMIZERS[name]
    except KeyError:
        raise unknown("optimizer", name, OPTIMIZERS) from None


def configure(
    task: Task,
    optimizer: str,
    *,
    seed: int = 0,
    lr: float | None = None,
    epochs: int | None = None,
    batch_size: int | None = None,
    schedule: str = "constant",
    **options: Any,
) -> RunConfig:
    """A run's settings: what is given, and the task's defaults for the rest.

    Args:
        task: the task.
        optimizer: a key of ``OPTIMIZERS``.
        seed: seed of the weights and of the order of the data.
        lr: step size.
        epochs: passes over the training data.
        batch_size: images a step.
        schedule: how the step size changes over the run.
        options: further fields of ``RunConfig``; None means not given.

    Raises:
        LabError: if the optimizer is unknown, has no such option, or a value is out of its range.
    """
    spec = find_optimizer(optimizer)
    if batch_size is not None and batch_size > task.train_size:
        raise LabError(
            f"--batch-size must be at most {task.train_size}, the number of training images, "
            f"got {batch_size}."
        )
    given = {name: value for name, value in options.items() if value is not None}
    _refuse_foreign(spec, given)
    scion = task.constrained if given.get("constrained") else task.free
    settings = _defaults(scion, spec) | given
    if "variant" in spec.options:
        _settle_variant(settings, given)
    if lr is None:
        lr = scion.lr if spec.options else task.adam_lr
    return RunConfig(
        task=task.name,
        optimizer=optimizer,
        lr=lr,
        seed=seed,
        epochs=task.epochs if epochs is None else epochs,
        batch_size=task.batch_size if batch_size is None else batch_size,
        schedule=schedule,
        **settings,
    )


def _defaults(scion: ScionSettings, spec: OptimizerSpec) -> dict[str, Any]:
    known = {name: getattr(scion, name) for name in ("alpha", "rho", *_RADII)}
    known["constrained"] = False
    return {name: value for name, value in known.items() if name in spec.options}


def _refuse_foreign(spec: OptimizerSpec, given: dict[str, Any]) -> None:
    for name, value in given.items():
        if name not in spec.options:
            takers = [other.name for other in OPTIMIZERS.values() if name in other.options]
            raise LabError(
                f"{flag(name)} {value} does not apply to {spec.name}: leave it out, or choose "
                f"{' or '.join(takers)}."
            )


def _settle_variant(settings: dict[str, Any], given: dict[str, Any]) -> None:
    if settings["constrained"]:
        settings.setdefault("variant", 2)
    elif "variant" in given:
        raise LabError(
            f"--variant {given['variant']} applies to constrained steps: add --constrained, "
            "or leave it out."
        )
