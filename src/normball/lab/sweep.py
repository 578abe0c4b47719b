"""A sweep: optimizers times step sizes, thresholds, schedules and seeds, resumable."""

from collections import deque
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any

from normball.lab.config import RunConfig, flag
from normball.lab.errors import LabError
from normball.lab.optimizers import OWN, configure, find_optimizer
from normball.lab.results import EpochReport
from normball.lab.rows import Row, RunFolder, new_row
from normball.lab.tasks import Task
from normball.lab.train import Trainer
from normball.lab.workers import Engine, Event

SweepEvent = Event[RunConfig, EpochReport, Row]


@dataclass(frozen=True)
class Plan:
    """The runs of a sweep, and those that are still missing.

    Attributes:
        configs: every run of the sweep.
        todo: those without a row yet, in the order in which they start.
    """

    configs: tuple[RunConfig, ...]
    todo: tuple[RunConfig, ...]

    @property
    def kept(self) -> int:
        """How many of the runs are finished already."""
        return len(self.configs) - len(self.todo)


def make_sweep(
    task: Task,
    *,
    optimizers: Sequence[str],
    seeds: Sequence[int],
    lr: Sequence[float] | None = None,
    rho: Sequence[float] | None = None,
    schedule: Sequence[str] = ("constant",),
    **settings: Any,
) -> tuple[RunConfig, ...]:
    """Every combination of optimizer, step size, threshold, schedule and seed, seeds outermost.

    Args:
        task: what is trained.
        optimizers: names.
        seeds: one run of everything for each.
        lr: step sizes of every optimizer; each one's grid of the task when None.
        rho: thresholds of those that have one; the task's default when None.
        schedule: how the step sizes change over the runs.
        settings: further arguments of ``configure``, each for the optimizers that have it.

    Raises:
        LabError: if a name is unknown, a value is out of its range or given twice, or a setting
            applies to none of the optimizers.
    """
    specs = [find_optimizer(name) for name in optimizers]
    lists = {"optimizers": optimizers, "seeds": seeds, "lr": lr, "rho": rho, "schedule": schedule}
    for what, values in lists.items():
        if values is not None:
            _refuse_repeats(what, values)
    for name, value in {**settings, "rho": rho}.items():
        wanted = value is not None and name in OWN
        if wanted and not any(name in spec.options for spec in specs):
            raise LabError(
                f"{flag(name)} {_listed(value)} applies to none of {', '.join(optimizers)}: "
                "leave it out."
            )
    return tuple(
        configure(
            task,
            spec.name,
            seed=seed,
            lr=step,
            rho=threshold,
            schedule=steps,
            **{k: v for k, v in settings.items() if k not in OWN or k in spec.options},
        )
        for seed in seeds
        for steps in schedule
        for spec in specs
        for step in sorted(lr or task.grid[spec.name])
        for threshold in (sorted(rho) if rho and "rho" in spec.options else (None,))
    )


def _listed(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _refuse_repeats(what: str, values: Sequence[Any]) -> None:
    if not values:
        raise LabError(f"--{what} is empty: name at least one.")
    for value in values:
        if values.count(value) > 1:
            raise LabError(f"--{what} has {value} twice: name each once.")


def make_plan(
    configs: tuple[RunConfig, ...],
    folder: RunFolder[Row],
    *,
    varied: Sequence[str] | None = ("lr", "rho", "schedule", "seed"),
) -> Plan:
    """The runs still missing, given the rows that a folder has.

    The folder may have rows of other optimizers, or with other values of what varies: they join
    the sweep.

    Args:
        varied: the settings that may differ between the runs of one optimizer; None for all.

    Raises:
        LabError: if the folder's runs and these differ in a setting that a sweep holds fixed.
    """
    if varied is not None:
        for row in folder.rows:
            for config in configs:
                _refuse_mixture(folder, row.config, config, varied)
    done = folder.done()
    return Plan(configs, tuple(config for config in configs if config.key() not in done))


def _refuse_mixture(
    folder: RunFolder[Row], there: RunConfig, here: RunConfig, varied: Sequence[str]
) -> None:
    theirs, ours = vars(there), vars(here)
    for name in (name for name in ours if name not in varied):
        same_kind = there.optimizer == here.optimizer or None not in (theirs[name], ours[name])
        if name != "optimizer" and same_kind and theirs[name] != ours[name]:
            raise LabError(
                f"{folder.record} has runs of {there.optimizer} with {flag(name)} {theirs[name]}, "
                f"this sweep wants {ours[name]}: choose another --out, or the same setting."
            )


def train(config: RunConfig) -> Generator[EpochReport, None, Row]:
    """Carry out a run in this process: a report after every epoch, and at last the row."""
    trainer = Trainer(config)
    yield from trainer.epochs()
    return new_row(config, trainer.result())


def run_plan(
    plan: Plan,
    folder: RunFolder[Row],
    *,
    engine: Engine,
    on_event: Callable[[SweepEvent], None],
    go_on: Callable[[], bool] = lambda: True,
) -> None:
    """Run what is left, as ``RunFolder.carry_out`` does.

    Args:
        go_on: asked before every run; once it says no, the runs under way are the last ones.
    """
    waiting = deque(plan.todo)
    take = lambda: waiting.popleft() if waiting and go_on() else None  # noqa: E731
    folder.carry_out(engine, train, take, on_event)
