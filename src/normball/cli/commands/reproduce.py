"""``normball reproduce``."""

import math
import time

import typer

from normball.cli.arguments import Budget, FigureName, Jobs, RunFolderPath, Scale, UntilDecided
from normball.cli.commands.shared import carry_out, plain_console, processes
from normball.cli.options import parse_time
from normball.lab.errors import LabError
from normball.lab.reproduce import conclude, load_experiment
from normball.lab.rows import open_folder
from normball.lab.sequential import make_trials, next_runs
from normball.lab.sweep import make_plan


def reproduce(
    figure: FigureName,
    out: RunFolderPath,
    scale: Scale = "cpu",
    jobs: Jobs = None,
    until_decided: UntilDecided = False,
    budget: Budget = None,
) -> None:
    """Repeat one of the paper's figures, and judge its claims, which are declared beforehand.

    The exit code is 0 where every claim holds, 1 where one fails or is undecided. Runs that another
    figure left in the same folder are not repeated. With --until-decided the figure's own seeds
    choose the settings only; fresh seeds judge them, 4 at first and at most 20, until every claim
    is decided or --budget is over. The same command goes on where it was stopped.
    """
    if budget is not None and not until_decided:
        raise LabError("--budget is a limit for --until-decided: give both, or leave it out.")
    seconds = math.inf if budget is None else parse_time(budget)
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
        done = len(plan.todo)
        verdicts, over = None, True
        if until_decided:
            trials = make_trials(experiment, folder.rows)
            while fresh := next_runs(trials, folder.rows):
                over = time.monotonic() < started + seconds
                if not over:
                    break
                still = sum(bool(trial.wanted(folder.rows)) for trial in trials)
                last = max(config.seed for config in fresh)
                console.print(f"{still} of {len(trials)} claims are open: seeds up to {last}.")
                more = make_plan(fresh, folder, varied=None)
                carry_out(console, more, folder, count)
                done += len(more.todo)
            verdicts = tuple(trial.verdict(folder.rows) for trial in trials)
        verdicts = conclude(experiment, folder, verdicts)
    for verdict in verdicts:
        console.print(f"{verdict.claim.text}\n  {verdict.sentence}", soft_wrap=True)
    minutes, rest = divmod(round(time.monotonic() - started), 60)
    console.print(
        f"{done} runs in {minutes} min {rest} s. The page: {out / figure}.md",
        soft_wrap=True,
    )
    if not over:
        console.print("Time is up: the same command goes on.")
    if any(verdict.outcome != "holds" for verdict in verdicts):
        raise typer.Exit(1)
