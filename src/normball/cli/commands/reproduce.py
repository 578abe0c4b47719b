"""``normball reproduce``."""

import math
import time
from collections.abc import Callable, Sequence

import typer

from normball.cli.commands.shared import carry_out, find_engine, say
from normball.cli.options import (
    Budget,
    EngineName,
    FigureName,
    Jobs,
    RunFolderPath,
    Scale,
    UntilDecided,
)
from normball.lab.errors import LabError
from normball.lab.reproduce import Experiment, conclude, load_experiment
from normball.lab.rows import Row, RunFolder, open_folder
from normball.lab.sequential import LOOKS
from normball.lab.sweep import Plan, make_plan
from normball.lab.until import FIRST_SEED, Standing, next_runs, stand
from normball.lab.workers import Engine


def reproduce(
    figure: FigureName,
    out: RunFolderPath,
    scale: Scale = "cpu",
    until_decided: UntilDecided = False,
    budget: Budget = None,
    jobs: Jobs = None,
    engine: EngineName = "local",
) -> None:
    """Repeat one of the paper's figures, and judge its claims, which are declared beforehand.

    The exit code is 0 where every claim holds, 1 where one fails or is undecided. Runs that another
    figure left in the same folder are not repeated. With --until-decided the figure's own seeds
    choose the settings, and fresh seeds judge them; the same command goes on after --budget.
    """
    experiment = load_experiment(figure, scale)
    if budget is not None and not until_decided:
        raise LabError("--budget is for --until-decided: give both, or leave it out.")
    seconds = math.inf if budget is None else budget
    runs_on = find_engine(engine, jobs)
    say(f"{experiment.title}\nIn the paper: {experiment.published}")
    say(f"Here: {experiment.about}")
    for claim in experiment.claims:
        say(f"Declared: {claim.text}")
    if until_decided:
        say(
            f"Declared: the figure's seeds choose the settings; seeds from {FIRST_SEED} on judge "
            f"them, with looks at {LOOKS[0]}, {LOOKS[1]} and so on up to {LOOKS[-1]} seeds."
        )
    started = time.monotonic()

    def go_on() -> bool:
        return time.monotonic() - started < seconds

    with open_folder(out) as folder:
        before = len(folder.rows)
        _choose(experiment, folder, runs_on, go_on)
        standings = _add_seeds(experiment, folder, runs_on, go_on) if until_decided else ()
        verdicts = conclude(experiment, folder, standings)
        runs = len(folder.rows) - before
    for verdict in verdicts:
        say(f"{verdict.claim.text}\n  {verdict.sentence}")
    minutes, rest = divmod(round(time.monotonic() - started), 60)
    say(f"{runs} runs in {minutes} min {rest} s. The page: {out / figure}.md")
    if not until_decided and any(verdict.outcome == "undecided" for verdict in verdicts):
        say("What is undecided needs more seeds: --until-decided adds them.")
    if any(verdict.outcome != "holds" for verdict in verdicts):
        raise typer.Exit(1)


def _choose(
    experiment: Experiment,
    folder: RunFolder[Row],
    engine: Engine,
    go_on: Callable[[], bool],
) -> None:
    """Do the figure's own runs: those of every rung, then those of full length."""
    for _ in range(len(experiment.rungs) + 1):
        plan = make_plan(experiment.stage(folder.rows), folder, varied=None)
        carry_out(plan, folder, engine, go_on)


def _add_seeds(
    experiment: Experiment,
    folder: RunFolder[Row],
    engine: Engine,
    go_on: Callable[[], bool],
) -> Sequence[Standing]:
    """Add fresh seeds until no claim needs more, or the time is up."""
    choosing = experiment.stage(folder.rows)
    while runs := next_runs(standings := stand(choosing, experiment.claims, folder.rows)):
        if not go_on():
            say("Time is up: the same command goes on.")
            break
        for standing in standings:
            say(f"So far: {standing.verdict.sentence}")
        carry_out(Plan(runs, runs), folder, engine, go_on)
    return standings
