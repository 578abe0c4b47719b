"""``normball rates``."""

import time
from typing import Any

import typer

from normball.cli.commands.shared import plain_console
from normball.cli.options import RATES, Jobs, RatesFolder, Steps, takes
from normball.lab.errors import LabError
from normball.lab.machine import usable_cores
from normball.lab.rows import open_folder
from normball.theory import run_rates
from normball.theory.rates import Part


@takes(RATES)
def rates(out: RatesFolder, n: Steps = 10_000, jobs: Jobs = None, **settings: Any) -> None:
    """Run every statement of the theory against its bound; exit code 1 where one fails.

    Minutes at --n 10000, hours at --n 100000. Writes a table and figures. Prints a line for every
    finished part, whose verdicts are in rates-unfinished.md until all are done.
    """
    seeds, console = settings["seeds"], plain_console()
    started = time.monotonic()

    def say(part: Part) -> None:
        console.print(f"{part}, after {time.monotonic() - started:.0f} s", soft_wrap=True)

    try:
        status = console.status(f"every statement, {n} steps, {len(seeds)} seeds")
        with open_folder(out), status:
            holds = run_rates(out, n, seeds, jobs or usable_cores(), say)
    except ValueError as error:
        raise LabError(f"{error}.") from None
    table = out / "rates.md"
    console.print(table.read_text(encoding="utf-8"), soft_wrap=True)
    verdict = "every statement holds" if holds else "NOT every statement holds"
    spent = f"{time.monotonic() - started:.0f} s"
    console.print(f"{verdict}, in {spent}. The table: {table}", soft_wrap=True)
    if not holds:
        raise typer.Exit(1)
