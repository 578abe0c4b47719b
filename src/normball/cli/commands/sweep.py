"""``normball sweep``."""

from typing import Any

from normball.cli.commands.shared import carry_out, find_engine, plain_console, say
from normball.cli.options import SWEEP, EngineName, Jobs, RunFolderPath, TaskName, takes
from normball.cli.screen import tables
from normball.lab.cells import make_cells, ordered
from normball.lab.report import write_report
from normball.lab.rows import open_folder
from normball.lab.sweep import make_plan, make_sweep
from normball.lab.tasks import find_task


@takes(SWEEP)
def sweep(
    task: TaskName,
    out: RunFolderPath,
    jobs: Jobs = None,
    engine: EngineName = "local",
    **settings: Any,
) -> None:
    """Train over a grid of step sizes, thresholds, schedules and seeds, and report.

    What is not given comes from the task. Finished runs are kept: a sweep that was stopped goes on
    when it is started again. The rows are lines of JSON for any other tool.
    """
    configs = make_sweep(find_task(task), **settings)
    runs_on = find_engine(engine, jobs)
    with open_folder(out) as folder:
        carry_out(make_plan(configs, folder), folder, runs_on)
        page = write_report(folder)
        for table in tables(ordered(make_cells(folder.rows))):
            plain_console().print(table)
    say(f"The report: {page}. The rows: {folder.record}")
