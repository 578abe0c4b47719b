"""Functions that several commands share."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import typer
from rich.console import Console

from normball.cli.screen import SweepScreen
from normball.lab.errors import LabError
from normball.lab.machine import usable_cores
from normball.lab.registry import look_up
from normball.lab.rows import Row, RunFolder, open_folder
from normball.lab.sweep import Plan, run_plan
from normball.lab.workers import Engine, Local

ENGINES = {"local": Local, "ray": None}


def plain_console() -> Console:
    """A console that prints what it is given."""
    return Console(markup=False, highlight=False)


def say(text: str) -> None:
    """Print a line, however long."""
    plain_console().print(text, soft_wrap=True)


def say_interrupted(message: str) -> None:
    """Print after Ctrl-C, which may have interrupted a console in the middle of a print."""
    say(f"Interrupted: {message}")


@contextmanager
def run_folder(out: Path | None) -> Iterator[RunFolder[Row] | None]:
    """The folder of ``--out``, held as by ``open_folder``; None where it was not given."""
    if out is None:
        yield None
        return
    with open_folder(out) as folder:
        yield folder


def keep_pictures(folder: RunFolder[Row], name: str, draw: Callable[[str], bytes]) -> None:
    """Write a picture in both formats, which are ``draw``'s argument, and say where it is."""
    for kind in ("svg", "png"):
        path = folder.replace(f"{name}.{kind}", draw(kind))
    say(f"The picture: {path}")


def find_engine(name: str, jobs: int | None) -> Engine:
    """What carries runs out.

    Args:
        jobs: number of runs at a time; None for as many as there is room for.

    Raises:
        LabError: if there is no such engine, it is not installed, or it does not answer.
    """
    if look_up("engine", name, ENGINES) is Local:
        return Local(jobs or usable_cores())
    try:
        from normball.lab.on_ray import connect
    except ModuleNotFoundError as error:
        if error.name != "ray":
            raise
        raise LabError('--engine ray needs Ray: pip install "normball[ray]".') from None
    return connect(jobs)


def carry_out(
    plan: Plan,
    folder: RunFolder[Row],
    engine: Engine,
    go_on: Callable[[], bool] = lambda: True,
) -> None:
    """Run the missing runs of a plan, with a screen; after Ctrl-C say what is kept, and end.

    Args:
        go_on: asked before every run; once it says no, the runs under way are the last ones.
    """
    _say_what_is_kept(plan, folder)
    try:
        with SweepScreen(plan, plain_console()) as screen:
            run_plan(plan, folder, engine=engine, on_event=screen.on_event, go_on=go_on)
    except KeyboardInterrupt:
        _say_how_to_go_on(plan, folder)
        raise typer.Exit(130) from None


def _say_what_is_kept(plan: Plan, folder: RunFolder[Row]) -> None:
    """Print how many runs need not be repeated, and whether a torn line was dropped."""
    if folder.dropped:
        say(f"The last line of {folder.record} was torn by an interruption and has been dropped.")
    if plan.kept:
        say(f"{plan.kept} of {len(plan.configs)} runs are finished already and kept.")


def _say_how_to_go_on(plan: Plan, folder: RunFolder[Row]) -> None:
    """Print what an interruption has left."""
    # The interrupt may have come after a row was written to disk, but before it was in the list.
    folder.read()
    done = len(folder.done() & {config.key() for config in plan.configs})
    say_interrupted(
        f"{done} of {len(plan.configs)} runs are kept in {folder.record}. "
        "The same command goes on from there."
    )
