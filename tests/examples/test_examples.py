"""Every example runs on real data: its loss falls, and a resumed run is the unbroken one."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

EXAMPLES = Path(__file__).parent.parent.parent / "examples"


def run(name: str, *options: object) -> str:
    """Run an example as a user does, and return what it prints."""
    done = subprocess.run(
        [sys.executable, EXAMPLES / name, *map(str, options)],
        env=os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def losses(printed: str) -> list[float]:
    return [float(value) for value in re.findall(r"loss (\d+\.\d+)", printed)]


def weights(file: Path) -> dict[str, torch.Tensor]:
    return load_file(file) if file.suffix == ".safetensors" else torch.load(file, weights_only=True)


def assert_equal(one: Path, other: Path) -> None:
    """Bit for bit, as both ran on one machine."""
    first, second = weights(one), weights(other)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_first_steps():
    """The newcomer's path is as short as it says, and trains."""
    found = losses(run("first_steps.py"))
    assert len(found) == 6
    assert found[-1] < 0.1 * found[0]
    code = (EXAMPLES / "first_steps.py").read_text(encoding="utf-8").split('"""')[2]
    until_a_step = code[: code.index("optimizer.step()")].splitlines()
    assert sum(bool(line.strip()) for line in until_a_step) < 12


RESUMED = [
    ("accelerate_loop.py", ["--accumulate", 3]),
    ("accelerate_loop.py", ["--mixed-precision", "bf16"]),
    ("mixed_precision.py", ["--precision", "bf16"]),
    ("mixed_precision.py", ["--precision", "fp16"]),
    ("weight_averaging.py", []),
    ("schedules.py", ["--schedule", "cosine"]),
    ("schedules.py", ["--schedule", "one-cycle"]),
    ("schedules.py", ["--schedule", "plateau"]),
]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "options"), RESUMED, ids=str)
def test_loops_train_and_resume(name, options, tmp_path):
    # After four epochs the accuracy of some is at the bound, on one side or other by processor.
    options = [*options, "--epochs", 7]
    printed = run(name, "--out", tmp_path / "full", *options)
    found = losses(printed)
    assert len(found) == 7
    assert found[-1] < 0.2 * found[0]
    assert float(re.findall(r"(?:accuracy|averaged) (0\.\d+|1\.0+)", printed)[-1]) > 0.95
    run(name, "--out", tmp_path / "cut", "--stop-after", 2, *options)
    again = losses(run(name, "--out", tmp_path / "cut", "--resume", *options))
    assert again == found[2:]
    assert_equal(tmp_path / "full/final.pt", tmp_path / "cut/final.pt")


@pytest.mark.slow
def test_lightning_trains_and_resumes(tmp_path):
    printed = run("lightning_digits.py", "--out", tmp_path / "full", "--epochs", 4)
    assert float(re.search(r"test accuracy ([\d.]+)", printed)[1]) > 0.95
    logged = (
        (tmp_path / "full/lightning_logs/version_0/metrics.csv")
        .read_text(encoding="utf-8")
        .splitlines()
    )
    column = logged[0].split(",").index("loss")
    found = [float(line.split(",")[column]) for line in logged[1:] if line.split(",")[column]]
    assert len(found) == 4
    assert found[-1] < 0.2 * found[0]
    assert {"dual_norm", "clipped_share", "skipped"} <= set(logged[0].split(","))
    assert float(re.search(r"^accuracy ([\d.]+)", printed, re.M)[1]) > 0.95  # in validation
    run("lightning_digits.py", "--out", tmp_path / "cut", "--epochs", 4, "--stop-after", 2)
    run("lightning_digits.py", "--out", tmp_path / "cut", "--epochs", 4, "--resume")
    assert_equal(tmp_path / "full/final.pt", tmp_path / "cut/final.pt")


@pytest.mark.slow
def test_hugging_face_trainer_trains_and_resumes(tmp_path):
    options = ["--steps", 40, "--save-every", 20]
    run("hf_trainer.py", "--out", tmp_path / "full", *options)
    state = json.loads(
        (tmp_path / "full/checkpoint-40/trainer_state.json").read_text(encoding="utf-8")
    )
    found = [entry["loss"] for entry in state["log_history"] if "loss" in entry]
    assert found[-1] < 0.6 * found[0]
    assert all("dual_norm" in entry for entry in state["log_history"] if "loss" in entry)
    assert [entry["step"] for entry in state["log_history"] if "eval_loss" in entry] == [20, 40]
    run("hf_trainer.py", "--out", tmp_path / "cut", "--stop-after", 25, *options)
    run("hf_trainer.py", "--out", tmp_path / "cut", "--resume", *options)
    model = "final/model.safetensors"
    assert_equal(tmp_path / "full" / model, tmp_path / "cut" / model)


@pytest.mark.slow
def test_hugging_face_trainer_reads_a_file(tmp_path):
    text = tmp_path / "own.txt"
    text.write_text("abc" * 5000)
    run("hf_trainer.py", "--out", tmp_path, "--text", text, "--steps", 40, "--save-every", 40)
    state = json.loads((tmp_path / "checkpoint-40/trainer_state.json").read_text(encoding="utf-8"))
    found = [entry["loss"] for entry in state["log_history"] if "loss" in entry]
    assert found[-1] < 0.1  # a text of three letters in turn is learned to the end


@pytest.mark.slow
def test_a_compiled_model_trains(tmp_path):
    """By the compiler's front end alone: the default back end needs a C++ compiler."""
    printed = run("compiled_model.py", "--out", tmp_path, "--epochs", 3, "--backend", "aot_eager")
    found = losses(printed)
    assert found[-1] < 0.2 * found[0]
    assert float(re.search(r"test accuracy ([\d.]+)", printed)[1]) > 0.95
    assert not any("_orig_mod" in name for name in weights(tmp_path / "final.pt"))
