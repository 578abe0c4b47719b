"""The command line; it imports nothing of the extra here, so that it can say what is missing."""

import io
import logging
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from typing import NoReturn

# The modules that the extra installs.
NEEDED = (
    "filelock", "jinja2", "joblib", "matplotlib", "numpy", "PIL", "platformdirs", "pooch", "rich",
    "scipy", "sklearn", "typer",
)  # fmt: skip


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Run ``normball`` and leave the process.

    The exit code is 0 when done, 1 for a fault of the program, 2 for something that the user can
    correct, 130 after Ctrl-C.

    Args:
        argv: the arguments after the program's name; those of the process when None.

    Raises:
        SystemExit: always, with the exit code.
    """
    missing = [name for name in NEEDED if _is_missing(name)]
    if missing:
        print(
            f'normball: the command line needs {", ".join(missing)}: pip install "normball[lab]"',
            file=sys.stderr,
        )
        sys.exit(2)
    # Without a home folder Matplotlib would tell of its cache, before any message of ours.
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A folder's name, or a word of a result, may have letters that a log cannot.
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        from normball.cli.app import run

        sys.exit(run(sys.argv[1:] if argv is None else argv))
    except KeyboardInterrupt:
        print("normball: interrupted.", file=sys.stderr)
        sys.exit(130)


def _is_missing(name: str) -> bool:
    try:
        return find_spec(name) is None
    except ModuleNotFoundError:
        return True
