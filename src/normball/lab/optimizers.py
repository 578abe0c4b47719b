"""The optimizers that a user can name, and the settings of each."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn

from normball import ClippedScion, Scion
from normball.groups import param_groups
from normball.lab.config import RunConfig, flag
from normball.lab.errors import LabError
from normball.lab.models import find_model
from normball.lab.muon import BETAS, MuonAdamW
from normball.lab.registry import by_name, look_up
from normball.lab.tasks import ScionSettings, Task, build_model, find_task
from normball.optim.clipped_scion import LR

_RADII = ("input_radius", "radius", "output_radius")


@dataclass(frozen=True)
class OptimizerSpec:
    """An optimizer as the lab knows it.

    Attributes:
        name: the name on the command line.
        label: the name in a report.
        options: the fields of ``RunConfig`` it has, besides those that every run has.
        build: makes the optimizer for a model.
        clips_outside: the loop clips the gradient's Euclidean norm at ``rho`` before its step.
    """

    name: str
    label: str
    options: tuple[str, ...]
    build: Callable[[nn.Module, RunConfig], torch.optim.Optimizer]
    clips_outside: bool = False


def _adam(model: nn.Module, config: RunConfig) -> torch.optim.Optimizer:
    return torch.optim.Adam(model.parameters(), lr=config.lr)


def _adamw(model: nn.Module, config: RunConfig) -> torch.optim.Optimizer:
    decay = config.weight_decay or 0.0
    return torch.optim.AdamW(model.parameters(), lr=config.lr, betas=BETAS, weight_decay=decay)


def _muon(model: nn.Module, config: RunConfig) -> torch.optim.Optimizer:
    decay = config.weight_decay or 0.0
    optimizer = MuonAdamW(model, config.lr, decay=decay, kernels=False)
    if not optimizer.hidden:
        raise LabError(
            f"muon is for hidden matrices, of which {config.model} has none: leave it out, or "
            "choose a --model with linear layers, such as mlp."
        )
    return optimizer


def _sgd(model: nn.Module, config: RunConfig) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=config.lr, momentum=0.9)


def _groups(model: nn.Module, config: RunConfig) -> Any:
    # The paper has one radius for all hidden layers and vectors, and one for all tables. It uses
    # the first one for biases too, and the recorded results of the digits were made with that.
    own = find_task(config.task).paper_biases
    radii = {
        "input": config.input_radius,
        "embedding": config.input_radius,
        "bias": config.radius if own else config.input_radius,
        "hidden": config.radius,
        "vector": config.radius,
        "output": config.output_radius,
    }
    rows = param_groups(model).rows
    given = {row.name: radii.get(row.role) for row in rows}
    named: dict[Any, Any] = {name: {"radius": r} for name, r in given.items() if r is not None}
    return param_groups(model, overrides=named or None)


def _given(config: RunConfig) -> dict[str, Any]:
    """The options of both Scions, which here are the paper's methods, without look-ahead."""
    options = {name: getattr(config, name) for name in ("alpha", "constrained", "variant")}
    return {"nesterov": False} | {k: v for k, v in options.items() if v is not None}


def _scion(model: nn.Module, config: RunConfig) -> torch.optim.Optimizer:
    return Scion(_groups(model, config), lr=config.lr, **_given(config))


def _clipped_scion(model: nn.Module, config: RunConfig) -> torch.optim.Optimizer:
    # A run without a threshold is a mistake here; it does not mean that it is measured.
    rho: Any = "auto" if config.optimizer == "clipped-scion-auto" else config.rho
    return ClippedScion(_groups(model, config), lr=config.lr, rho=rho, **_given(config))


def _default(model: nn.Module, config: RunConfig) -> torch.optim.Optimizer:
    """What a user gets who sets nothing: our radii, look-ahead, measured threshold, average."""
    return ClippedScion(param_groups(model), lr=config.lr, average=0.1)


_CLIPPED = ("constrained", "variant", *_RADII)
OPTIMIZERS = by_name(
    OptimizerSpec("adam", "Adam", (), _adam),
    OptimizerSpec("scion", "Scion", ("alpha", "constrained", *_RADII), _scion),
    OptimizerSpec("clipped-scion", "Clipped Scion", ("alpha", "rho", *_CLIPPED), _clipped_scion),
    OptimizerSpec(
        "clipped-scion-auto",
        "Clipped Scion, ρ measured",
        ("alpha", *_CLIPPED),
        _clipped_scion,
    ),
    OptimizerSpec("default", "Clipped Scion, nothing set", (), _default),
    OptimizerSpec("adamw", "AdamW", ("weight_decay",), _adamw),
    OptimizerSpec("muon", "Muon", ("weight_decay",), _muon),
    OptimizerSpec("sgd-clip", "SGD, clipped", ("rho",), _sgd, clips_outside=True),
)
# The fields of RunConfig that some optimizers have, and others have not.
OWN = frozenset(name for spec in OPTIMIZERS.values() for name in spec.options)


def describe_groups(config: RunConfig) -> str:
    """The table of layers, norms and radii of a run whose optimizer has radii."""
    with torch.random.fork_rng(devices=[]):
        return str(_groups(build_model(config), config))


def find_optimizer(name: str) -> OptimizerSpec:
    """The optimizer of that name; a LabError has the nearest one if there is none."""
    return look_up("optimizer", name, OPTIMIZERS)


def configure(task: Task, optimizer: str, **options: Any) -> RunConfig:
    """A run's settings: what is given, and the task's defaults for the rest.

    Args:
        task: the task.
        optimizer: a key of ``OPTIMIZERS``.
        options: other fields of ``RunConfig``; None means not given.

    Raises:
        LabError: if the optimizer is unknown, has no such option, or a value is out of its range.
    """
    spec = find_optimizer(optimizer)
    given = {name: value for name, value in options.items() if value is not None}
    network = find_model(given.get("model", task.model), text=not task.shape.size).name
    for name in [name for name in given if name in OWN and name not in spec.options]:
        takers = [other.name for other in OPTIMIZERS.values() if name in other.options]
        raise LabError(
            f"{flag(name)} {given[name]} does not apply to {spec.name}: leave it out, or choose "
            f"{' or '.join(takers)}."
        )
    scion = task.settings(network, constrained=bool(given.get("constrained")))
    settings: dict[str, Any] = {
        "seed": 0,
        "lr": scion.lr if "radius" in spec.options else _own_lr(task, optimizer),
        "epochs": task.epochs,
        "batch_size": task.batch_size,
        **_defaults(scion, spec),
        **given,
        "model": network,
    }
    if "variant" in spec.options:
        _settle_variant(settings, given)
    _refuse_sizes(task, settings)
    return RunConfig(task=task.name, optimizer=optimizer, **settings)


def _refuse_sizes(task: Task, settings: Mapping[str, Any]) -> None:
    train = task.train_size and settings.get("train_size", task.train_size)
    for name, most, what in (
        ("test_size", task.test_size, "test"),
        ("train_size", task.train_size, "training"),
        ("batch_size", train, "training"),
    ):
        value = settings.get(name)
        if most is not None and value is not None and value > most:
            raise LabError(
                f"{flag(name)} must be at most {most}, the number of {what} images, got {value}."
            )


def _own_lr(task: Task, optimizer: str) -> float:
    if optimizer == "default":
        return LR
    grid = task.grid[optimizer]
    return task.lrs.get(optimizer, grid[len(grid) // 2])


def _defaults(scion: ScionSettings, spec: OptimizerSpec) -> dict[str, Any]:
    if spec.clips_outside:
        return {"rho": 1.0}
    known = {**asdict(scion), "constrained": False}
    return {name: value for name, value in known.items() if name in spec.options}


def _settle_variant(settings: dict[str, Any], given: dict[str, Any]) -> None:
    if settings["constrained"]:
        settings.setdefault("variant", 2)
    elif "variant" in given:
        raise LabError(
            f"--variant {given['variant']} applies to constrained steps: add --constrained, "
            "or leave it out."
        )
