"""The program: its commands, and how it ends."""

import functools
import os
import sys
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import typer

from normball.cli.commands.arena import arena
from normball.cli.commands.find_lr import find_lr
from normball.cli.commands.rates import rates
from normball.cli.commands.report import fetch, report
from normball.cli.commands.reproduce import reproduce
from normball.cli.commands.smoothness import smoothness
from normball.cli.commands.sweep import sweep
from normball.cli.commands.train import train
from normball.lab.errors import LabError, WorkerError

# Typer does not export the class of its usage errors, only one that derives from it.
_UsageError: type[Exception] = typer.BadParameter.__bases__[0]

app = typer.Typer(
    name="normball",
    help="Train and compare norm-ball optimizers.",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


def _show_version(wanted: bool) -> None:
    if wanted:
        from normball import __version__

        print(f"normball {__version__}")
        raise typer.Exit


Version = Annotated[
    bool,
    typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version."),
]


def run(argv: Sequence[str]) -> int:
    """Run the command line and return the exit code."""
    try:
        code = app(args=list(argv) or ["--help"], prog_name="normball", standalone_mode=False)
        if sys.stdout is not None:  # it was closed
            sys.stdout.flush()
    except LabError as error:
        return _fail(str(error), 2)
    except WorkerError as error:
        return _fail(str(error), 1)
    except OSError as error:  # a full disk, also when output is redirected to it
        _drop_output()
        return _fail(f"{error}.", 2)
    except _UsageError as error:
        return _fail(error.format_message(), 2)  # type: ignore[attr-defined]
    return code if isinstance(code, int) else 0


def _drop_output() -> None:
    """Discard what cannot be written, which the interpreter would try again when it ends."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _fail(message: str, code: int) -> int:
    print(f"normball: {message}", file=sys.stderr)
    return code


@app.callback()
def _root(version: Version = False) -> None:
    """Train and compare norm-ball optimizers."""


def _interruptible(command: Callable[..., None]) -> Callable[..., None]:
    """Wrap a command, because Typer would end it after Ctrl-C without a message."""

    @functools.wraps(command)
    def run_or_say(**given: Any) -> None:
        try:
            command(**given)
        except KeyboardInterrupt:
            raise typer.Exit(_fail("interrupted.", 130)) from None

    return run_or_say


_COMMANDS = (train, sweep, arena, reproduce, report, fetch, find_lr, smoothness, rates)
for _command in _COMMANDS:
    app.command()(_interruptible(_command))
