"""The sharded and the staged GPT train under torchrun, and go on on other numbers of ranks."""

import os
import re
import signal
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


def command(ranks: int, out: Path, *options: object, example: str) -> list[str]:
    """Return the command line that trains on so many ranks."""
    start = out.with_suffix(".py")
    start.write_text(START, encoding="utf-8")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    torchrun += [f"--nproc-per-node={ranks}"]
    program = [start, (EXAMPLES / f"{example}.py").as_posix(), "--out", out, *options]
    return [*torchrun, *map(str, program)]


ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


def losses(text: str) -> list[float]:
    """Return those that were printed."""
    return [float(value) for value in re.findall(r"loss (\d+\.\d+)", text)]


def run(ranks: int, out: Path, *options: object, example: str = "fsdp2_gpt") -> list[float]:
    """Return the losses that it prints."""
    done = subprocess.run(
        command(ranks, out, *options, example=example),
        env=ENVIRONMENT, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return losses(done.stdout)


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


def children(pid: int) -> list[int]:
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii")
    return [int(child) for child in text.split()]


@pytest.mark.slow
@needs.fsdp_on_cpu
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_a_killed_stage_ends_all_and_a_second_start_goes_on_in_other_stages(tmp_path):
    options = ("--steps", 40, "--save-every", 10)
    full = run(2, tmp_path / "full", *options, example="pipeline_gpt")
    out, killed = tmp_path / "cut", False
    with subprocess.Popen(
        command(2, out, *options, example="pipeline_gpt"),
        env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    ) as agent:  # fmt: skip
        assert agent.stdout is not None
        for text in agent.stdout:
            if text.startswith("step 20") and not killed:
                killed = True
                os.kill(children(agent.pid)[-1], signal.SIGKILL)
        assert agent.wait(timeout=120) != 0
    assert killed
    # The checkpoint of step 20 may or may not be whole.
    again = run(4, out, *options, example="pipeline_gpt")
    assert 2 <= len(again) <= 3
    assert again == pytest.approx(full[-len(again) :], abs=2e-4)
