"""What is shipped: the wheel, the sdist, and what an import costs."""

import re
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import version
from pathlib import Path

import pytest

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


STEP = """
import sys
sys.path.insert(0, sys.argv[1])
import torch, normball
assert normball.__file__.startswith(sys.argv[1]), normball.__file__
model = torch.nn.Linear(3, 2)
optimizer = normball.ClippedScion(normball.param_groups(model), lr=0.1, rho=1.0)
model(torch.ones(1, 3)).sum().backward()
before = model.weight.clone()
optimizer.step()
assert not torch.equal(before, model.weight)
print(normball.__version__)
"""


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["wheel", "sdist"])
def test_what_is_built_installs_elsewhere_and_trains(kind, tmp_path):
    python("-m", "hatchling", "build", "-t", kind, "-d", str(tmp_path / "dist"), cwd=ROOT)
    (built,) = (tmp_path / "dist").iterdir()
    if kind == "sdist":
        python(
            "-m", "pip", "wheel", "--no-deps", "--no-index", "--no-build-isolation",
            "--wheel-dir", str(tmp_path / "wheels"), str(built),
        )  # fmt: skip
        (built,) = (tmp_path / "wheels").iterdir()
    packed = zipfile.ZipFile(built).namelist()
    assert "normball/py.typed" in packed
    assert "normball/lab/templates/report.html.j2" in packed
    assert {name.split("/")[0].partition("-")[0] for name in packed} == {"normball"}
    inside = str(tmp_path / "inside")
    python("-m", "pip", "install", "--no-deps", "--no-index", "--target", inside, str(built))
    assert python("-I", "-c", STEP, inside, cwd=tmp_path).strip() == VERSION
