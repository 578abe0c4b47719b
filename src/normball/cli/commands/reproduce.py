"""``normball reproduce``."""

import time

import typer

from normball.cli.arguments import FigureName, Jobs, RunFolderPath, Scale
from normball.cli.commands.shared import carry_out, plain_console, processes
from normball.lab.reproduce import conclude, load_experiment
from normball.lab.rows import open_folder
from normball.lab.sweep import make_plan


def reproduce(
    figure: FigureName, out: RunFolderPath, scale: Scale = "cpu", jobs: Jobs = None
) -> None:
    """Repeat one of the paper's figures, and judge its claims, which are declared beforehand.

    The exit code is 0 where every claim holds, 1 where one fails or is undecided. Runs that another
    figure left in the same folder are not repeated.
    """
    experiment = load_experiment(figure, scale)
    count = processes(jobs)
    console = plain_console()
    console.print(f"{experiment.title}\nIn the paper: {experiment.published}", soft_wrap=True)
    console.print(f"Here: {experiment.about}", soft_wrap=True)
    for claim in experiment.claims:
        console.print(f"Declared: {claim.text}", soft_wrap=True)
    started = time.monotonic()
    with open_folder(out) as folder:
        plan = make_plan(experiment.configs, folder, varied=None)
        carry_out(console, plan, folder, count)
        verdicts = conclude(experiment, folder)
    for verdict in verdicts:
        console.print(f"{verdict.claim.text}\n  {verdict.sentence}", soft_wrap=True)
    minutes, rest = divmod(round(time.monotonic() - started), 60)
    console.print(
        f"{len(plan.todo)} runs in {minutes} min {rest} s. The page: {out / figure}.md",
        soft_wrap=True,
    )
    if any(verdict.outcome != "holds" for verdict in verdicts):
        raise typer.Exit(1)
