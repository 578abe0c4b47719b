"""``normball smoothness``."""

from typing import Any

import torch

from normball.cli.commands.shared import keep_pictures, plain_console, run_folder, say
from normball.cli.commands.train import run_trainer
from normball.cli.options import RUN, Every, NormBallOptimizer, SmoothnessFolder, TaskName, takes
from normball.cli.screen import fit_lines, layer_table, result_line
from normball.lab.errors import LabError
from normball.lab.optimizers import configure
from normball.lab.smoothness import RECORD, draw, fit_run, record, refuse_other
from normball.lab.tasks import find_task
from normball.lab.train import Trainer


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
    trainer = Trainer(config, probe_every=every)
    probe = trainer.probe
    if probe is None:
        raise LabError("this run measures nothing.")
    with run_folder(out) as folder:
        if folder is not None:
            refuse_other(folder.path / RECORD, config)
        result = run_trainer(trainer, None)
        say(result_line(config, result))
        fit = fit_run(probe)
        for line in fit_lines(config, fit):
            say(line)
        plain_console().print(layer_table(probe))
        if folder is not None:
            folder.replace(RECORD, record(config, result, probe, fit))
            keep_pictures(folder, "smoothness", lambda kind: draw(config, probe, fit, kind))
