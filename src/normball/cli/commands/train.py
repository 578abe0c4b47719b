"""``normball train``."""

from pathlib import Path
from typing import Any

import torch
import typer

from normball.cli.commands.shared import plain_console, say, say_interrupted
from normball.cli.options import RUN, Optimizer, Resume, RowFolderPath, TaskName, TensorBoard, takes
from normball.cli.screen import TrainScreen, result_line
from normball.lab import ranks
from normball.lab.checkpoints import Checkpoints, describe_differences
from normball.lab.config import RunConfig
from normball.lab.errors import LabError
from normball.lab.optimizers import configure
from normball.lab.results import EpochReport, RunResult
from normball.lab.rows import Row, RunFolder, new_row, open_folder
from normball.lab.scalars import Scalars
from normball.lab.tasks import find_task
from normball.lab.train import Trainer


@takes(RUN)
def train(
    task: TaskName,
    optimizer: Optimizer,
    out: RowFolderPath = None,
    resume: Resume = False,
    tensorboard: TensorBoard = None,
    **settings: Any,
) -> None:
    """Train once.

    What is not given comes from the task. With --out the run keeps checkpoints, and the same
    command with --resume goes on from the last one, to the weights of an unbroken run.
    """
    if resume and out is None:
        raise LabError("--resume needs --out, the folder that holds the checkpoints.")
    config = configure(find_task(task), optimizer, **settings)
    # As in a comparison, so that a row can be repeated bit for bit by either command.
    torch.set_num_threads(1)
    ranks.join()
    try:
        if ranks.rank() > 0:
            _follow(config, out, resume=resume)
        else:
            _lead(config, out, resume=resume, tensorboard=tensorboard)
    finally:
        ranks.leave()


def _follow(config: RunConfig, out: Path | None, *, resume: bool) -> None:
    """Train as one of torchrun's processes that say and keep nothing."""
    if out is not None and resume:
        Checkpoints(out, config).resume(lambda text: None)[0].run()  # noqa: ARG005
    else:
        Trainer(config).run()


def _lead(config: RunConfig, out: Path | None, *, resume: bool, tensorboard: Path | None) -> None:
    scalars = None if tensorboard is None else Scalars(tensorboard)
    if out is None:
        result = run_trainer(Trainer(config), None, scalars)
        say(result_line(config, result))
        return
    with open_folder(out) as folder:
        checkpoints = Checkpoints(out, config)
        if config.key() in folder.done():
            _say_finished(folder, checkpoints, resume)
            return
        trainer = _trainer(folder, checkpoints, config, resume)
        result = run_trainer(trainer, checkpoints, scalars)
        say(result_line(config, result))
        folder.append(new_row(config, result))
        say(f"The row is in {folder.record}, the weights are in {checkpoints.files()[0]}.")


def _say_finished(folder: RunFolder[Row], checkpoints: Checkpoints, resume: bool) -> None:
    if not resume:
        raise LabError(f"{folder.record} has this run already: choose another --out.")
    weights = f", its weights are in {files[0]}" if (files := checkpoints.files()) else ""
    say(f"This run is finished: its row is in {folder.record}{weights}.")


def _trainer(
    folder: RunFolder[Row],
    checkpoints: Checkpoints,
    config: RunConfig,
    resume: bool,
) -> Trainer:
    if not resume:
        if checkpoints.files():
            raise LabError(
                f"{checkpoints.path} has checkpoints of this run: add --resume to go on from "
                "there, or choose another --out."
            )
        return Trainer(config)
    trainer, file = checkpoints.resume(say)
    if file is not None:
        say(f"Going on from {file}, epoch {trainer.state.epoch} of {config.epochs}.")
    if checkpoints.files() or file is not None:
        return trainer
    others = checkpoints.others()
    for there, last in others:
        if there.key() not in folder.done():
            raise LabError(
                f"{last} is of an unfinished run with {describe_differences(there, config)}: give "
                "the same settings to go on with it, or leave out --resume to begin another run."
            )
    if others:
        there, last = others[0]
        say(
            f"Beginning at the first epoch, because {last} is of a run with "
            f"{describe_differences(there, config)}. It is kept."
        )
    return trainer


def run_trainer(
    trainer: Trainer,
    checkpoints: Checkpoints | None,
    scalars: Scalars | None = None,
) -> RunResult:
    """Run a trainer with a screen."""
    try:
        with TrainScreen(trainer.config, plain_console(), done=trainer.state.epoch) as screen:

            def on_epoch(report: EpochReport) -> None:
                if checkpoints is not None:
                    checkpoints.save(trainer)
                if scalars is not None:
                    scalars.write(report)
                screen.on_epoch(report)

            return trainer.run(on_epoch)
    except KeyboardInterrupt:
        if checkpoints is None or not checkpoints.files():
            say_interrupted("nothing of this run is kept.")
        else:
            say_interrupted(
                f"{checkpoints.files()[0]} is kept. The same command with --resume "
                "goes on from there."
            )
        raise typer.Exit(130) from None
