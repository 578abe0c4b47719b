"""One version, one dependency, and what an import costs."""

import re
import subprocess
import sys
import tomllib
from importlib.metadata import version
from pathlib import Path

import normball

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
(VERSION,) = re.findall(
    r"__version__ = \"(.+)\"", (ROOT / "src/normball/__init__.py").read_text(encoding="utf-8")
)


def python(*arguments, cwd=None):
    done = subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, check=False, cwd=cwd
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


LOADED = """
import sys, torch
theirs = set(sys.modules)
import normball
print(len(theirs), *sorted(set(sys.modules) - theirs))
"""


def test_an_import_loads_nothing_but_torch():
    """And little more of it than an import of torch does, so that it takes little longer."""
    theirs, *ours = python("-c", LOADED).split()
    rooms = {name.partition(".")[0] for name in ours}
    assert rooms - set(sys.stdlib_module_names) - {"torch"} == {"normball"}
    assert len(ours) <= 0.1 * int(theirs)


def test_one_version_everywhere():
    cited = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"\nversion: {VERSION}\n" in cited
    assert "version" in PROJECT["dynamic"]
    assert normball.__version__ == version("normball")


def test_the_core_needs_torch_alone():
    assert [re.split(r"[<>=!~ ]", need)[0] for need in PROJECT["dependencies"]] == ["torch"]
