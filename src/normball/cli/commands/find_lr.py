"""``normball find-lr``."""

from typing import Any

import torch

from normball.cli.commands.shared import keep_pictures, run_folder, say
from normball.cli.options import RANGE_TEST, CurveFolder, NormBallOptimizer, TaskName, takes
from normball.lab.config import format_step
from normball.lab.optimizers import configure
from normball.lab.smoothness import draw_lrs
from normball.lab.tasks import find_task
from normball.lab.train import Trainer


@takes(RANGE_TEST)
def find_lr(
    task: TaskName,
    optimizer: NormBallOptimizer = "clipped-scion",
    out: CurveFolder = None,
    **settings: Any,
) -> None:
    """Suggest a step size: a hundred steps that grow, and where the loss falls most quickly."""
    config = configure(find_task(task), optimizer, **settings)
    torch.set_num_threads(1)
    trainer = Trainer(config)
    with run_folder(out) as folder:
        curve = trainer.find_lr()
        nearest = format_step(2.0 ** round(torch.tensor(curve.suggestion).log2().item()))
        say(
            f"The loss falls most quickly at --lr {curve.suggestion:.3g}, about {nearest}; "
            f"{len(curve.lrs)} steps, from {curve.lrs[0]:.3g} to {curve.lrs[-1]:.3g}, "
            f"loss {curve.losses[0]:.3g} to {curve.best[1]:.3g}."
        )
        if folder is not None:
            keep_pictures(folder, "find-lr", lambda kind: draw_lrs(config, curve, kind))
