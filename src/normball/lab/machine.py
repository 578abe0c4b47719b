"""What a result was computed with: package versions and the machine, but not its host name."""

import platform
import subprocess
from collections.abc import Iterable
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import joblib
import torch

import normball


@cache
def versions() -> dict[str, str]:
    """The versions of Python and of the packages that can change a result."""
    packages = {"numpy": "numpy", "sklearn": "scikit-learn"}
    found = {name: version(package) for name, package in packages.items()}
    # With its build (+cpu, +cu124), which the metadata of some releases leave out.
    found["torch"] = str(torch.__version__)
    return {"python": platform.python_version(), "normball": normball.__version__} | found


@cache
def describe_machine() -> str:
    """The processor's model and the number of cores this process may use."""
    return f"{_processor()}, {usable_cores()} cores"


@cache
def describe_commit() -> str | None:
    """The commit of the checkout this package lies in; None if it lies in none, or was changed."""
    folder = Path(__file__).parent

    def git(*words: str) -> str:
        done = subprocess.run(
            ["git", "-C", str(folder), *words], capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    try:
        if git("status", "--porcelain", "--untracked-files=no", "--", str(folder)):
            return None
        return git("rev-parse", "HEAD") if git("ls-files", "--", __file__) else None
    except (OSError, subprocess.CalledProcessError):
        return None


def provenance(rows: Iterable[Any]) -> dict[str, str]:
    """The machines, versions and commits of finished runs, for reading."""
    rows = list(rows)
    packages = {", ".join(f"{k} {v}" for k, v in row.versions.items()) for row in rows}
    return {
        "machine": "; ".join(sorted({row.machine for row in rows})),
        "versions": "; ".join(sorted(packages)),
        "commit": "; ".join(sorted({row.commit or "not recorded" for row in rows})),
    }


def usable_cores() -> int:
    """The number of cores this process may use; a container can have fewer than its machine."""
    return int(joblib.cpu_count())


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
            field, _, value = line.partition(":")
            if field.strip() == "model name":
                return value.strip()
    return platform.processor() or platform.machine()
