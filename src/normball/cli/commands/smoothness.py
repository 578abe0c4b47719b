"""``normball smoothness``."""

from typing import Any

import torch
from rich.console import Console

from normball import SmoothnessProbe
from normball.cli.commands.shared import plain_console
from normball.cli.commands.train import run_trainer
from normball.cli.options import RUN, Every, NormBallOptimizer, SmoothnessFolder, TaskName, takes
from normball.cli.screen import fit_lines, layer_table, result_line
from normball.lab.errors import LabError
from normball.lab.optimizers import configure
from normball.lab.results import RunResult
from normball.lab.rows import open_folder
from normball.lab.smoothness import RECORD, draw, fit_run, record, refuse_other
from normball.lab.tasks import find_task
from normball.lab.train import Trainer
from normball.optim.probe import Fit


@takes(RUN)
def smoothness(
    task: TaskName,
    optimizer: NormBallOptimizer = "clipped-scion",
    every: Every = 5,
    out: SmoothnessFolder = None,
    **settings: Any,
) -> None:
    """Train once and measure the smoothness (L0, L1) of the loss on the way.

    One mini-batch before and after a step, once in --every steps, in the norms of the optimizer.
    """
    config = configure(find_task(task), optimizer, **settings)
    torch.set_num_threads(1)
    console = plain_console()
    trainer = Trainer(config, probe_every=every)
    if out is None:
        measure(console, trainer)
        return
    with open_folder(out) as folder:
        refuse_other(folder.path / RECORD, config)
        probe, result, fit = measure(console, trainer)
        folder.replace(RECORD, record(config, result, probe, fit))
        paths = [
            folder.replace(f"smoothness.{kind}", draw(config, probe, fit, kind))
            for kind in ("svg", "png")
        ]
        console.print(f"The picture: {paths[1]}", soft_wrap=True)


def measure(console: Console, trainer: Trainer) -> tuple[SmoothnessProbe, RunResult, Fit]:
    """Run a trainer that has a probe, and print what it measured."""
    result = run_trainer(console, trainer, None)
    console.print(result_line(trainer.config, result), soft_wrap=True)
    probe = trainer.probe
    if probe is None:
        raise LabError("this run measures nothing.")
    fit = fit_run(probe)
    for line in fit_lines(trainer.config, fit):
        console.print(line, soft_wrap=True)
    console.print(layer_table(probe))
    return probe, result, fit
