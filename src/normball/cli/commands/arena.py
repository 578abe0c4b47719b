"""``normball arena``."""

import typer

from normball.cli.commands.shared import find_engine, say, say_interrupted
from normball.cli.options import (
    ArenaFolder,
    Budget,
    Demo,
    EngineName,
    Jobs,
    Methods,
    Quick,
    Tasks,
)
from normball.lab.arena.methods import METHODS
from normball.lab.arena.page import brief, write_page
from normball.lab.arena.protocol import declare, select, whole
from normball.lab.arena.protocol import demo as demo_rules
from normball.lab.arena.protocol import quick as quick_rules
from normball.lab.arena.record import Row
from normball.lab.arena.work import work
from normball.lab.errors import LabError
from normball.lab.rows import open_folder


def arena(
    out: ArenaFolder,
    quick: Quick = False,
    demo: Demo = False,
    tasks: Tasks = None,
    methods: Methods = None,
    budget: Budget = None,
    jobs: Jobs = None,
    engine: EngineName = "local",
) -> None:
    """Tune optimizers of all families alike on ten small tasks, and judge them on fresh seeds.

    About three hours on two cores, in as many sittings as you like: the rules are written down
    before the first run, finished runs are kept, and what was stopped goes on when it is started
    again. The page is written at the end of every sitting.
    """
    if quick and demo:
        raise LabError("--quick and --demo are different rules: choose one.")
    rules = quick_rules() if quick else demo_rules() if demo else whole()
    some_tasks = select(tasks, rules.tasks, "task")
    some_methods = select(methods, rules.methods, "method")
    runs_on = find_engine(engine, jobs)

    def report(row: Row) -> None:
        run, result = row.run, row.result
        label = METHODS[run.method].label
        say(
            f"{run.task}, {label}, {run.value:g}, seed {run.seed}: {result.score:.4g} "
            f"in {result.seconds:.1f} s"
        )

    with open_folder(out, Row) as folder:
        declare(rules, folder.path)
        try:
            over = work(rules, folder, some_tasks, some_methods, runs_on, budget, report)
        except KeyboardInterrupt:
            folder.read()
            say_interrupted(
                f"{len(folder.rows)} runs are kept in {folder.path}. "
                "The same command goes on from there."
            )
            raise typer.Exit(130) from None
        page = write_page(rules, folder.rows, folder.path)
    for line in brief(rules, folder.rows):
        say(line)
    say("All runs are there." if over else "Time is up: the same command goes on.")
    say(f"The page: {page}")
