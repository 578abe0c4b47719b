"""What a result was computed with: package versions and the machine, without its name."""

import os
import platform
from functools import cache
from importlib.metadata import version
from pathlib import Path


@cache
def versions() -> dict[str, str]:
    """The versions of Python and of the packages that can change a result."""
    packages = {"torch": "torch", "normball": "normball", "numpy": "numpy"}
    packages["sklearn"] = "scikit-learn"
    found = {name: version(package) for name, package in packages.items()}
    return {"python": platform.python_version()} | found


@cache
def describe_machine() -> str:
    """The processor's model and the number of cores this process may use."""
    return f"{_processor()}, {usable_cores()} cores"


def usable_cores() -> int:
    """The number of cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
            field, _, value = line.partition(":")
            if field.strip() == "model name":
                return value.strip()
    return platform.processor() or platform.machine()
