"""torchrun starts killed ranks again, and they go on by themselves from the last checkpoint."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.distributed.checkpoint.format_utils import dcp_to_torch_save

from tests import needs

ROOT = Path(__file__).parent.parent.parent
RANKS, STEPS, EVERY = 3, 12, 3
# In step 5 of the first attempt: a step exchanges twice. In the second, which starts at step 3, in
# the save of step 9.
FAULTS = [(0, 1, "exchange", 10), (1, 0, "save", 2)]
# torch's default store outlives a restart, with the addresses of ranks that are dead.
ENVIRONMENT = os.environ | {
    "CUDA_VISIBLE_DEVICES": "",
    "OMP_NUM_THREADS": "1",
    "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",
}


def run(ranks, folder, faults):
    """Train the example; return what it printed and all tensors of its last checkpoint."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    torchrun += [f"--nproc-per-node={ranks}", f"--max-restarts={len(FAULTS)}"]
    program = ["-m", "tests.distributed.elastic", json.dumps(faults), "examples/fsdp2_gpt.py"]
    options = ["--out", folder, "--steps", STEPS, "--save-every", EVERY]
    options += ["--width", 16, "--layers", 1]
    done = subprocess.run(
        [*torchrun, *program, *map(str, options)],
        env=ENVIRONMENT, cwd=ROOT, capture_output=True, text=True, timeout=150, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    file = folder / "last.pt"
    dcp_to_torch_save(folder / f"step-{STEPS}", file)
    return done.stdout, dict(tensors(torch.load(file)["training"]))


def tensors(state, prefix=""):
    for name, value in state.items():
        if isinstance(value, dict):
            yield from tensors(value, f"{prefix}{name}/")
        elif torch.is_tensor(value):
            yield prefix + name, value


@pytest.mark.slow
@needs.fsdp_on_cpu
@pytest.mark.skipif(sys.platform == "win32", reason="sends SIGKILL")
def test_killed_ranks_start_again_and_end_with_the_weights_of_an_undisturbed_run(tmp_path):
    printed, disturbed = run(RANKS, tmp_path / "disturbed", FAULTS)
    assert re.findall(r"(?:dies|loads): (\S+)", printed) == ["exchange", "step-3", "save", "step-6"]
    _, undisturbed = run(RANKS, tmp_path / "undisturbed", [])
    assert all(x.dtype == torch.float64 for x in undisturbed.values())
    assert disturbed.keys() == undisturbed.keys()
    # The same operations on the same inputs.
    assert all(torch.equal(disturbed[name], x) for name, x in undisturbed.items())
    _, alone = run(1, tmp_path / "alone", [])
    for name, x in alone.items():
        assert torch.allclose(disturbed[name], x, rtol=0, atol=1e-12), name
