"""The core needs torch alone, and an extra no more than it says."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from normball.cli import NEEDED

EXTRAS = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text("utf-8"))[
    "project"
]["optional-dependencies"]


def blocked(*but: str) -> str:
    """Code after which only these of the modules that extras bring can be imported."""
    names = {*NEEDED, "pandas", "tiktoken", "tqdm"} - set(but)
    # None in sys.modules is how Python marks a module that cannot be imported. torch brings
    # filelock itself, and says once that it has found no NumPy.
    return f"""
import sys, warnings
sys.modules.update(dict.fromkeys({sorted(names - {"filelock"})!r}))
warnings.simplefilter("ignore")
"""


BLOCK = blocked()

TRAIN = """
import torch, normball
model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
opt = normball.ClippedScion(normball.param_groups(model), lr=0.01, rho=1.0)
model(torch.randn(3, 4)).square().mean().backward()
opt.step()
print(float(opt.metrics()["step_factor"]) > 0)
"""

LIVE = """
from normball.live import Live
with Live(opt, total=1) as live:
    live.step(0.5)
print("shown")
"""

PLOT = """
from normball import plot
history = plot.History(opt)
opt.step()
history.record()
plot.dual_norm(history)
print("shown")
"""


def test_the_core_runs_with_torch_alone():
    done = subprocess.run(
        [sys.executable, "-c", BLOCK + TRAIN], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "True"


@pytest.mark.parametrize(
    ("extra", "brings", "use"),
    [
        ("live", ["rich"], LIVE),
        ("plot", ["matplotlib", "numpy", "PIL"], PLOT),
    ],
)
def test_an_extra_brings_all_that_its_module_needs(extra: str, brings: list[str], use: str) -> None:
    assert [re.split("[>=]", need)[0] for need in EXTRAS[extra]] == brings[:1]
    code = blocked(*brings) + TRAIN + use
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "shown"


def test_the_command_line_looks_for_all_that_the_extra_brings() -> None:
    modules = {"pillow": "PIL", "scikit-learn": "sklearn"}
    names = []
    for need in EXTRAS["lab"]:
        inner = re.fullmatch(r"normball\[(.+)\]", need)
        needs = [n for e in inner[1].split(",") for n in EXTRAS[e]] if inner else [need]
        names += [re.split("[>=]", one)[0] for one in needs]
    assert sorted(modules.get(name, name) for name in names) == sorted(NEEDED)


def test_the_command_line_says_what_is_missing():
    code = BLOCK + "from normball.cli import main\nraise SystemExit(main(['--help']))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "normball[lab]" in done.stderr
    assert "Traceback" not in done.stderr
