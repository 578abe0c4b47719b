"""The sharded GPT trains under torchrun, and goes on on another number of ranks."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests import needs

EXAMPLE = Path(__file__).parent.parent.parent / "examples/fsdp2_gpt.py"


def run(ranks: int, out: Path, *options: object) -> list[float]:
    """Return the losses that it prints."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    done = subprocess.run(
        [*command, f"--nproc-per-node={ranks}", EXAMPLE, "--out", out, *map(str, options)],
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
    assert [*first, *again] == pytest.approx(full, rel=2e-3)
