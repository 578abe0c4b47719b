"""The folder of all data, and the errors for data that is missing or wrong."""

import hashlib
import os
from pathlib import Path

from platformdirs import user_data_path

from normball.lab.errors import LabError

VARIABLE = "NORMBALL_DATA"


def data_root() -> Path:
    """The folder of all data: ``NORMBALL_DATA``, or the system's for a user's data.

    On Linux that is ``~/.local/share/normball``, where ``XDG_DATA_HOME`` names no other. A LabError
    if it is in the home folder, and the user has none.
    """
    given = os.environ.get(VARIABLE)
    try:
        root = Path(given) if given else user_data_path("normball", appauthor=False)
        return root.expanduser()
    except RuntimeError:  # so pathlib says that there is no home
        raise LabError(
            f"this user has no home folder to hold the data: set {VARIABLE} to the folder of the "
            "data, from the root of the file system."
        ) from None


def missing(what: str, put: str) -> LabError:
    """The error for data that is not there.

    Args:
        put: what to put where, from the root.
    """
    root = data_root()
    return LabError(f"no {what} under {root}: {put}. {VARIABLE} names another folder than {root}.")


def foreign(path: Path, why: str) -> LabError:
    """The error for a file that is not what its name says."""
    return LabError(f"{path} is not usable: {why}. The file is unchanged; put a whole one there.")


def read_bytes(path: Path) -> bytes:
    """A file's content; a LabError if it cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise foreign(path, f"it cannot be read ({error.strerror})") from None


def check_digest(path: Path, content: bytes, digest: str) -> None:
    """Refuse content with another digest than the known one.

    Args:
        digest: SHA-256 in hexadecimal of what it must be.

    Raises:
        LabError: if it is something else.
    """
    found = hashlib.sha256(content).hexdigest()
    if found != digest:
        raise foreign(path, f"its SHA-256 is {found[:12]}..., not {digest[:12]}...")
