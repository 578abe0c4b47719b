"""``normball find-lr``."""

from typing import Any

import torch
from rich.console import Console

from normball.cli.commands.shared import plain_console
from normball.cli.options import RANGE_TEST, CurveFolder, NormBallOptimizer, TaskName, takes
from normball.lab.config import format_step
from normball.lab.optimizers import configure
from normball.lab.rows import open_folder
from normball.lab.smoothness import draw_lrs
from normball.lab.tasks import find_task
from normball.lab.train import Trainer
from normball.optim.finder import LrCurve


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
    console = plain_console()
    trainer = Trainer(config)
    if out is None:
        measure(console, trainer)
        return
    with open_folder(out) as folder:
        curve = measure(console, trainer)
        paths = [
            folder.replace(f"find-lr.{kind}", draw_lrs(config, curve, kind))
            for kind in ("svg", "png")
        ]
        console.print(f"The picture: {paths[1]}", soft_wrap=True)


def measure(console: Console, trainer: Trainer) -> LrCurve:
    """Look for a step size, and print what was found."""
    curve = trainer.find_lr()
    nearest = format_step(2.0 ** round(torch.tensor(curve.suggestion).log2().item()))
    console.print(
        f"The loss falls most quickly at --lr {curve.suggestion:.3g}, about {nearest}; "
        f"{len(curve.lrs)} steps, from {curve.lrs[0]:.3g} to {curve.lrs[-1]:.3g}, "
        f"loss {curve.losses[0]:.3g} to {curve.best[1]:.3g}.",
        soft_wrap=True,
    )
    return curve
