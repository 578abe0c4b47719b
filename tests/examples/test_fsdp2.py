"""The sharded and the staged GPT train under torchrun, and go on on other numbers of ranks."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests import needs

# In float64 the order of sums is too small to be seen in what is printed, on any processor.
START = """import runpy, sys, torch
torch.set_default_dtype(torch.float64)
sys.argv.pop(0)
sys.path.insert(0, sys.argv[0].rpartition("/")[0])
runpy.run_path(sys.argv[0], run_name="__main__")
"""
EXAMPLES = Path(__file__).parent.parent.parent / "examples"


def run(ranks: int, out: Path, *options: object, example: str = "fsdp2_gpt") -> list[float]:
    """Return the losses that it prints."""
    start = out.with_suffix(".py")
    start.write_text(START, encoding="utf-8")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    done = subprocess.run(
        [
            *command,
            f"--nproc-per-node={ranks}",
            start,
            (EXAMPLES / f"{example}.py").as_posix(),
            "--out",
            out,
            *map(str, options),
        ],
        env=os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return [float(value) for value in re.findall(r"loss (\d+\.\d+)", done.stdout)]


@pytest.mark.slow
@needs.fsdp_on_cpu
def test_it_trains_and_goes_on_on_other_ranks(tmp_path):
    full = run(2, tmp_path / "full", "--steps", 60, "--save-every", 30)
    assert len(full) == 6
    # An untrained model guesses among 256 bytes: ln 256 = 5.5.
    assert full[-1] < full[0] < 4
    assert full[-1] < 3
    first = run(1, tmp_path / "cut", "--steps", 40, "--save-every", 20)
    # A save that was cut short: data without metadata.
    torn = tmp_path / "cut/step-50"
    torn.mkdir()
    (torn / "__0_0.distcp").write_bytes(b"torn")
    again = run(3, tmp_path / "cut", "--steps", 60)
    assert len(again) == 2
    assert [*first, *again] == pytest.approx(full, abs=2e-4)


@pytest.mark.slow
@needs.fsdp_on_cpu
def test_stages_train_and_go_on_in_other_stages(tmp_path):
    full = run(2, tmp_path / "full", "--steps", 40, example="pipeline_gpt")
    assert full[-1] < full[0] < 4
    assert full[-1] < 3
    cut = tmp_path / "cut"
    first = run(2, cut, "--steps", 20, example="pipeline_gpt")
    sharded = run(4, cut, "--steps", 30, "--stages", 2, example="pipeline_gpt")
    again = run(4, cut, "--steps", 40, example="pipeline_gpt")
    assert [*first, *sharded, *again] == pytest.approx(full, abs=2e-4)
