"""``normball sweep``."""

from collections.abc import Sequence
from typing import Any

from normball.cli.arguments import EngineName, Jobs, RunFolderPath, TaskName
from normball.cli.commands.shared import carry_out, find_engine, plain_console
from normball.cli.screen import cell_table, race_table
from normball.cli.settings import LRS, OPTIMIZERS, RHOS, RUN, SEEDS, takes
from normball.lab.cells import Cell, make_cells
from normball.lab.charts import draw
from normball.lab.race import race
from normball.lab.rows import open_folder
from normball.lab.sweep import make_plan, make_sweep
from normball.lab.tasks import find_task


@takes(OPTIMIZERS, LRS, RHOS, SEEDS, *RUN)
def sweep(
    task: TaskName,
    out: RunFolderPath,
    jobs: Jobs = None,
    engine: EngineName = "local",
    **settings: Any,
) -> None:
    """Train over a grid of step sizes, thresholds and seeds, and draw the map.

    What is not given comes from the task. Finished runs are kept: a sweep that was stopped goes on
    when it is started again. The rows are lines of JSON for any other tool.
    """
    configs = make_sweep(find_task(task), **settings)
    runs_on = find_engine(engine, jobs)
    console = plain_console()
    with open_folder(out) as folder:
        plan = make_plan(configs, folder, varied=("lr", "seed", "rho"))
        carry_out(console, plan, folder, runs_on)
        cells = make_cells(folder.rows)
        console.print(cell_table(cells))
        if (found := race(cells)) is not None:
            console.print(race_table(found))
        charts = ["by-step", *_threshold_charts(cells)]
        paths = [folder.replace(f"sweep.{k}", draw(charts, cells, k, task)) for k in ("svg", "png")]
        console.print(f"The picture: {paths[1]}. The rows: {folder.record}", soft_wrap=True)


def _threshold_charts(cells: Sequence[Cell]) -> list[str]:
    rhos = {cell.rho for cell in cells if cell.optimizer == "clipped-scion"}
    return ["by-rho", "heat"] if len(rhos) > 1 else []
