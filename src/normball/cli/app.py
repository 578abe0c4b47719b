"""The commands: each reads its options, calls the lab, and prints what came out."""

import sys
import time
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import torch
import typer
from rich.console import Console

from normball import SmoothnessProbe
from normball.cli.arguments import (
    AdamSteps,
    Alpha,
    BatchSize,
    Constrained,
    Epochs,
    Every,
    Iterations,
    Jobs,
    Optimizer,
    Optimizers,
    RatesFolder,
    Resume,
    Rho,
    RowFolderPath,
    RunFolderPath,
    Schedule,
    Seed,
    Seeds,
    SmoothnessFolder,
    Step,
    Steps,
    TaskName,
    Variant,
)
from normball.cli.options import (
    if_given,
    parse_list,
    parse_name,
    parse_number,
    parse_step,
    parse_whole,
)
from normball.cli.screen import (
    CompareScreen,
    TrainScreen,
    best_table,
    fit_lines,
    result_line,
)
from normball.lab.checkpoints import Checkpoints
from normball.lab.config import flag
from normball.lab.errors import LabError, WorkerError
from normball.lab.machine import usable_cores
from normball.lab.optimizers import configure
from normball.lab.report import write_report
from normball.lab.results import EpochReport, RunResult
from normball.lab.rows import RunFolder, new_row, open_folder
from normball.lab.smoothness import draw, fit_run, record
from normball.lab.summary import CLAIM, judge, summarise
from normball.lab.sweep import Plan, make_grid, make_plan, run_plan
from normball.lab.tasks import Task, find_task
from normball.lab.train import Trainer
from normball.optim.probe import Fit
from normball.theory import run_rates

# Typer does not export the class of its usage errors, only one that derives from it.
_UsageError: type[Exception] = typer.BadParameter.__bases__[0]

app = typer.Typer(
    name="normball",
    help="Train and compare norm-ball optimizers.",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


def _show_version(wanted: bool) -> None:
    if wanted:
        from normball import __version__

        print(f"normball {__version__}")
        raise typer.Exit


Version = Annotated[
    bool,
    typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version."),
]


def run(argv: Sequence[str]) -> int:
    """Run the command line and return the exit code.

    Args:
        argv: the arguments after the program's name.
    """
    try:
        code = app(args=list(argv) or ["--help"], prog_name="normball", standalone_mode=False)
    except LabError as error:
        return _fail(str(error), 2)
    except WorkerError as error:
        return _fail(str(error), 1)
    except _UsageError as error:
        return _fail(error.format_message(), 2)  # type: ignore[attr-defined]
    return code if isinstance(code, int) else 0


def _fail(message: str, code: int) -> int:
    print(f"normball: {message}", file=sys.stderr)
    return code


_PARSERS: dict[str, Callable[[str, str], Any]] = {
    "lr": parse_step,
    "epochs": parse_whole,
    "batch_size": parse_whole,
    "alpha": parse_number,
    "rho": parse_number,
    "variant": parse_whole,
}


def _settings(**texts: str | None) -> dict[str, Any]:
    """Read the options of a run, by their names in `RunConfig`; None where one is not given."""
    return {name: if_given(flag(name), text, _PARSERS[name]) for name, text in texts.items()}


@app.callback()
def _root(version: Version = False) -> None:
    """Train and compare norm-ball optimizers."""


@app.command()
def compare(
    task: TaskName,
    out: RunFolderPath,
    seeds: Seeds = "0,1,2",
    optimizers: Optimizers = None,
    lr: Steps = None,
    adam_lr: AdamSteps = None,
    epochs: Epochs = None,
    batch_size: BatchSize = None,
    alpha: Alpha = None,
    rho: Rho = None,
    jobs: Jobs = None,
) -> None:
    """Train with Adam, Scion and Clipped Scion over a grid of fixed step sizes, and report.

    What is not given comes from the task. Finished runs are kept: a comparison that was stopped
    goes on when it is started again.
    """
    chosen = find_task(task)
    grid = make_grid(
        chosen,
        optimizers=parse_list("--optimizers", optimizers, parse_name),
        seeds=parse_list("--seeds", seeds, parse_whole) or (),
        lr=parse_list("--lr", lr, parse_step),
        adam_lr=parse_list("--adam-lr", adam_lr, parse_step),
        **_settings(epochs=epochs, batch_size=batch_size, alpha=alpha, rho=rho),
    )
    processes = usable_cores() if jobs is None else parse_whole("--jobs", jobs)
    if processes < 1:
        raise LabError(f"--jobs must be 1 or more, got {jobs}.")
    console = Console(markup=False, highlight=False)
    with open_folder(out) as folder:
        plan = make_plan(grid, folder)
        _say_what_is_kept(console, plan, folder)
        try:
            started = time.monotonic()
            with CompareScreen(plan, console) as screen:
                run_plan(plan, folder, jobs=processes, on_event=screen.on_event)
            _conclude(console, chosen, folder, len(plan.todo), time.monotonic() - started)
        except KeyboardInterrupt:
            _say_how_to_go_on(console, plan, folder)
            raise typer.Exit(130) from None


def _say_what_is_kept(console: Console, plan: Plan, folder: RunFolder) -> None:
    if folder.dropped:
        console.print(
            f"The last line of {folder.record} was torn by an interruption and has been dropped.",
            soft_wrap=True,
        )
    if plan.kept:
        console.print(f"{plan.kept} of {len(plan.configs)} runs are finished already and kept.")


def _say_how_to_go_on(console: Console, plan: Plan, folder: RunFolder) -> None:
    # The interrupt may have come between a row's way to the disk and its way into the list.
    folder.read()
    done = len(folder.done() & {config.key() for config in plan.configs})
    console.print(
        f"Interrupted: {done} of {len(plan.configs)} runs are kept in {folder.record}. "
        "The same command goes on from there.",
        soft_wrap=True,
    )


def _conclude(console: Console, task: Task, folder: RunFolder, runs: int, seconds: float) -> None:
    report = write_report(task, folder)
    summaries = summarise(folder.rows)
    console.print(best_table(summaries))
    console.print(f"The claim: {CLAIM}\nThe verdict: {judge(summaries).text}")
    minutes, rest = divmod(round(seconds), 60)
    spent = f"{runs} runs in {minutes} min {rest} s" if runs else "There was nothing left to run"
    console.print(f"{spent}. Report: {report}", soft_wrap=True)


@app.command()
def train(
    task: TaskName,
    optimizer: Optimizer,
    lr: Step = None,
    rho: Rho = None,
    alpha: Alpha = None,
    constrained: Constrained = False,
    variant: Variant = None,
    epochs: Epochs = None,
    batch_size: BatchSize = None,
    schedule: Schedule = "constant",
    seed: Seed = "0",
    out: RowFolderPath = None,
    resume: Resume = False,
) -> None:
    """Train once.

    What is not given comes from the task. With --out the run keeps checkpoints, and the same
    command with --resume goes on from the last one, to the weights of an unbroken run.
    """
    if resume and out is None:
        raise LabError("--resume needs --out, the folder that holds the checkpoints.")
    config = configure(
        find_task(task),
        optimizer,
        seed=parse_whole("--seed", seed),
        schedule=schedule,
        constrained=constrained or None,
        **_settings(
            lr=lr, epochs=epochs, batch_size=batch_size, alpha=alpha, rho=rho, variant=variant
        ),
    )
    console = Console(markup=False, highlight=False)
    # As in a comparison, so that a row can be repeated bit for bit by either command.
    torch.set_num_threads(1)
    if out is None:
        result = _run(console, Trainer(config), None)
        console.print(result_line(config, result), soft_wrap=True)
        return
    with open_folder(out) as folder:
        checkpoints = Checkpoints(out, config)
        if config.key() in folder.done():
            _say_finished(console, folder, checkpoints, resume)
            return
        result = _run(console, _trainer(console, checkpoints, resume), checkpoints)
        console.print(result_line(config, result), soft_wrap=True)
        folder.append(new_row(config, result))
        console.print(
            f"The row is in {folder.record}, the weights are in {checkpoints.files()[0]}.",
            soft_wrap=True,
        )


def _say_finished(
    console: Console, folder: RunFolder, checkpoints: Checkpoints, resume: bool
) -> None:
    if not resume:
        raise LabError(f"{folder.record} has this run already: choose another --out.")
    weights = f", its weights are in {files[0]}" if (files := checkpoints.files()) else ""
    console.print(f"This run is finished: its row is in {folder.record}{weights}.", soft_wrap=True)


def _trainer(console: Console, checkpoints: Checkpoints, resume: bool) -> Trainer:
    if not resume and checkpoints.files():
        raise LabError(
            f"{checkpoints.path} has checkpoints of this run: add --resume to go on from there, or "
            "choose another --out."
        )
    trainer, file = checkpoints.resume(lambda text: console.print(text, soft_wrap=True))
    if file is not None:
        epochs = f"epoch {trainer.state.epoch} of {trainer.config.epochs}"
        console.print(f"Going on from {file}, {epochs}.", soft_wrap=True)
    return trainer


def _run(console: Console, trainer: Trainer, checkpoints: Checkpoints | None) -> RunResult:
    try:
        with TrainScreen(trainer.config, console, done=trainer.state.epoch) as screen:

            def on_epoch(report: EpochReport) -> None:
                if checkpoints is not None:
                    checkpoints.save(trainer)
                screen.on_epoch(report)

            return trainer.run(on_epoch)
    except KeyboardInterrupt:
        if checkpoints is None or not checkpoints.files():
            console.print("Interrupted: nothing of this run is kept.")
        else:
            console.print(
                f"Interrupted: {checkpoints.files()[0]} is kept. The same command with --resume "
                "goes on from there.",
                soft_wrap=True,
            )
        raise typer.Exit(130) from None


@app.command()
def smoothness(
    task: TaskName,
    optimizer: Optimizer = "clipped-scion",
    lr: Step = None,
    rho: Rho = None,
    alpha: Alpha = None,
    constrained: Constrained = False,
    epochs: Epochs = None,
    seed: Seed = "0",
    every: Every = "5",
    out: SmoothnessFolder = None,
) -> None:
    """Train once and measure the smoothness (L0, L1) of the loss on the way.

    One mini-batch before and after a step, once in --every steps, in the norms of the optimizer.
    """
    config = configure(
        find_task(task),
        optimizer,
        seed=parse_whole("--seed", seed),
        constrained=constrained or None,
        **_settings(lr=lr, epochs=epochs, alpha=alpha, rho=rho),
    )
    k = parse_whole("--every", every)
    if k < 1:
        raise LabError(f"--every must be 1 or more, got {k}.")
    torch.set_num_threads(1)
    console = Console(markup=False, highlight=False)
    trainer = Trainer(config, probe_every=k)
    if out is None:
        measure(console, trainer)
        return
    with open_folder(out) as folder:
        probe, result, fit = measure(console, trainer)
        folder.replace("smoothness.json", record(config, result, probe, fit))
        paths = [
            folder.replace(f"smoothness.{kind}", draw(config, probe, fit, kind))
            for kind in ("svg", "png")
        ]
        console.print(f"The picture: {paths[1]}", soft_wrap=True)


def measure(console: Console, trainer: Trainer) -> tuple[SmoothnessProbe, RunResult, Fit]:
    """Run a trainer that has a probe, and print what it measured."""
    result = _run(console, trainer, None)
    console.print(result_line(trainer.config, result), soft_wrap=True)
    probe = trainer.probe
    if probe is None:
        raise LabError("this run measures nothing.")
    fit = fit_run(probe)
    for line in fit_lines(trainer.config, fit):
        console.print(line, soft_wrap=True)
    return probe, result, fit


@app.command()
def rates(
    out: RatesFolder,
    n: Iterations = "10000",
    seeds: Seeds = "0,1,2,3,4,5,6,7",
    jobs: Jobs = None,
) -> None:
    """Run every statement of the theory against its bound; exit code 1 where one fails.

    Minutes at --n 10000, hours at --n 100000. Writes a table and figures.
    """
    steps = parse_whole("--n", n)
    numbers = parse_list("--seeds", seeds, parse_whole) or ()
    processes = usable_cores() if jobs is None else parse_whole("--jobs", jobs)
    console = Console(markup=False, highlight=False)
    started = time.monotonic()
    try:
        with console.status(f"every statement, {steps} steps, {len(numbers)} seeds"):
            holds = run_rates(out, steps, numbers, processes)
    except (ValueError, OSError) as error:
        raise LabError(f"{error}.") from None
    table = out / "rates.md"
    console.print(table.read_text(encoding="utf-8"), soft_wrap=True)
    verdict = "every statement holds" if holds else "NOT every statement holds"
    spent = f"{time.monotonic() - started:.0f} s"
    console.print(f"{verdict}, in {spent}. The table: {table}", soft_wrap=True)
    if not holds:
        raise typer.Exit(1)
