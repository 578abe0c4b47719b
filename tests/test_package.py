"""One version, one dependency, and what an import costs."""

import re
import subprocess
import sys
import tomllib
from importlib.metadata import version
from pathlib import Path

import normball

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
(VERSION,) = re.findall(r"__version__ = \"(.+)\"", (ROOT / "src/normball/__init__.py").read_text())


def python(*arguments, cwd=None):
    done = subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, check=False, cwd=cwd
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def modules_after(statement):
    listed = python("-c", f"import sys; {statement}; print(*sys.modules)")
    return {name.partition(".")[0] for name in listed.split()}


def test_an_import_loads_nothing_but_torch():
    extra = modules_after("import torch, normball") - modules_after("import torch")
    assert extra - set(sys.stdlib_module_names) == {"normball"}


def test_one_version_everywhere():
    cited = (ROOT / "CITATION.cff").read_text()
    assert f"\nversion: {VERSION}\n" in cited
    assert "version" in PROJECT["dynamic"]
    assert normball.__version__ == version("normball")


def test_the_core_needs_torch_alone():
    assert [re.split(r"[<>=!~ ]", need)[0] for need in PROJECT["dependencies"]] == ["torch"]
