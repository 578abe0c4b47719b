"""``normball compare``."""

import time
from typing import Any

from rich.console import Console

from normball.cli.arguments import Jobs, RunFolderPath, TaskName
from normball.cli.commands.shared import carry_out, plain_console, processes
from normball.cli.screen import best_table
from normball.cli.settings import (
    ADAM_LRS,
    ALPHA,
    BATCH_SIZE,
    COMPARED,
    EPOCHS,
    RHO,
    SCION_LRS,
    SEEDS,
    takes,
)
from normball.lab.errors import LabError
from normball.lab.report import write_report
from normball.lab.rows import RunFolder, open_folder
from normball.lab.summary import CLAIM, judge, summarise
from normball.lab.sweep import make_grid, make_plan
from normball.lab.tasks import Task, find_task
from normball.lab.workers import Local


@takes(SEEDS, COMPARED, SCION_LRS, ADAM_LRS, EPOCHS, BATCH_SIZE, ALPHA, RHO)
def compare(task: TaskName, out: RunFolderPath, jobs: Jobs = None, **settings: Any) -> None:
    """Train with Adam, Scion and Clipped Scion over a grid of fixed step sizes, and report.

    What is not given comes from the task. Finished runs are kept: a comparison that was stopped
    goes on when it is started again.
    """
    chosen = find_task(task)
    if not chosen.higher:
        raise LabError(
            f"compare is for accuracies: use `normball sweep {task}`, which knows losses."
        )
    grid = make_grid(chosen, **settings)
    engine = Local(processes(jobs))
    console = plain_console()
    with open_folder(out) as folder:
        plan = make_plan(grid, folder)
        started = time.monotonic()
        carry_out(console, plan, folder, engine)
        _conclude(console, chosen, folder, len(plan.todo), time.monotonic() - started)


def _conclude(console: Console, task: Task, folder: RunFolder, runs: int, seconds: float) -> None:
    report = write_report(task, folder)
    summaries = summarise(folder.rows)
    console.print(best_table(summaries))
    console.print(f"The claim: {CLAIM}\nThe verdict: {judge(summaries).text}")
    minutes, rest = divmod(round(seconds), 60)
    spent = f"{runs} runs in {minutes} min {rest} s" if runs else "There was nothing left to run"
    console.print(f"{spent}. Report: {report}", soft_wrap=True)
