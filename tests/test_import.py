"""The core needs torch alone."""

import subprocess
import sys

# None in sys.modules is how Python marks a module that cannot be imported.
BLOCK = """
import sys
for name in ("numpy", "scipy", "sklearn", "matplotlib", "rich", "typer", "jinja2", "PIL", "pandas"):
    sys.modules[name] = None
import warnings
warnings.simplefilter("ignore")  # torch says once that it has found no NumPy
"""

TRAIN = """
import torch, normball
model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
opt = normball.ClippedScion(normball.param_groups(model), lr=0.01, rho=1.0)
model(torch.randn(3, 4)).square().mean().backward()
opt.step()
print(float(opt.metrics()["step_factor"]) > 0)
"""


def test_the_core_runs_with_torch_alone():
    done = subprocess.run(
        [sys.executable, "-c", BLOCK + TRAIN], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "True"
