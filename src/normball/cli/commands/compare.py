"""``normball compare``."""

import time

from rich.console import Console

from normball.cli.arguments import (
    AdamSteps,
    Alpha,
    BatchSize,
    Epochs,
    Jobs,
    Optimizers,
    Rho,
    RunFolderPath,
    Seeds,
    Steps,
    TaskName,
)
from normball.cli.commands.shared import carry_out, plain_console, processes, settings
from normball.cli.options import parse_list, parse_name, parse_step, parse_whole
from normball.cli.screen import best_table
from normball.lab.errors import LabError
from normball.lab.report import write_report
from normball.lab.rows import RunFolder, open_folder
from normball.lab.summary import CLAIM, judge, summarise
from normball.lab.sweep import make_grid, make_plan
from normball.lab.tasks import Task, find_task


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
    if not chosen.higher:
        raise LabError(
            f"compare is for accuracies: use `normball sweep {task}`, which knows losses."
        )
    grid = make_grid(
        chosen,
        optimizers=parse_list("--optimizers", optimizers, parse_name),
        seeds=parse_list("--seeds", seeds, parse_whole) or (),
        lr=parse_list("--lr", lr, parse_step),
        adam_lr=parse_list("--adam-lr", adam_lr, parse_step),
        **settings(epochs=epochs, batch_size=batch_size, alpha=alpha, rho=rho),
    )
    count = processes(jobs)
    console = plain_console()
    with open_folder(out) as folder:
        plan = make_plan(grid, folder)
        started = time.monotonic()
        carry_out(console, plan, folder, count)
        _conclude(console, chosen, folder, len(plan.todo), time.monotonic() - started)


def _conclude(console: Console, task: Task, folder: RunFolder, runs: int, seconds: float) -> None:
    report = write_report(task, folder)
    summaries = summarise(folder.rows)
    console.print(best_table(summaries))
    console.print(f"The claim: {CLAIM}\nThe verdict: {judge(summaries).text}")
    minutes, rest = divmod(round(seconds), 60)
    spent = f"{runs} runs in {minutes} min {rest} s" if runs else "There was nothing left to run"
    console.print(f"{spent}. Report: {report}", soft_wrap=True)
