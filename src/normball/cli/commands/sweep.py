"""``normball sweep``."""

from collections.abc import Sequence

from normball.cli.arguments import (
    Accumulate,
    Alpha,
    BatchSize,
    Constrained,
    Epochs,
    Jobs,
    Model,
    Precision,
    Rhos,
    RunFolderPath,
    Schedule,
    Seeds,
    Steps,
    SweepOptimizers,
    TaskName,
    TestSize,
    TrainSize,
    Variant,
    Warmup,
    WeightDecay,
    Width,
)
from normball.cli.commands.shared import carry_out, plain_console, processes, settings
from normball.cli.options import (
    parse_list,
    parse_name,
    parse_step,
    parse_threshold,
    parse_whole,
)
from normball.cli.screen import cell_table, race_table
from normball.lab.cells import Cell, make_cells
from normball.lab.charts import draw
from normball.lab.race import race
from normball.lab.rows import open_folder
from normball.lab.sweep import make_plan, make_sweep
from normball.lab.tasks import find_task


def sweep(
    task: TaskName,
    out: RunFolderPath,
    optimizers: SweepOptimizers = "scion,clipped-scion",
    lr: Steps = None,
    rho: Rhos = None,
    seeds: Seeds = "0,1,2",
    epochs: Epochs = None,
    batch_size: BatchSize = None,
    alpha: Alpha = None,
    constrained: Constrained = False,
    variant: Variant = None,
    schedule: Schedule = "constant",
    warmup: Warmup = None,
    weight_decay: WeightDecay = None,
    model: Model = None,
    width: Width = None,
    train_size: TrainSize = None,
    test_size: TestSize = None,
    accumulate: Accumulate = None,
    precision: Precision = "float32",
    jobs: Jobs = None,
) -> None:
    """Train over a grid of step sizes, thresholds and seeds, and draw the map.

    What is not given comes from the task. Finished runs are kept: a sweep that was stopped goes on
    when it is started again. The rows are lines of JSON for any other tool.
    """
    configs = make_sweep(
        find_task(task),
        optimizers=parse_list("--optimizers", optimizers, parse_name) or (),
        seeds=parse_list("--seeds", seeds, parse_whole) or (),
        lr=parse_list("--lr", lr, parse_step),
        rho=parse_list("--rho", rho, parse_threshold),
        schedule=schedule,
        model=model,
        precision=precision,
        constrained=constrained or None,
        **settings(
            epochs=epochs,
            batch_size=batch_size,
            alpha=alpha,
            variant=variant,
            warmup=warmup,
            weight_decay=weight_decay,
            width=width,
            train_size=train_size,
            test_size=test_size,
            accumulate=accumulate,
        ),
    )
    count = processes(jobs)
    console = plain_console()
    with open_folder(out) as folder:
        plan = make_plan(configs, folder, varied=("lr", "seed", "rho"))
        carry_out(console, plan, folder, count)
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
