"""The GPU benchmark runs: here on a CPU, with a tiny model."""

import json

import pytest
import torch

from benchmarks import floor, gpu, peers
from tests import needs


@needs.muon
def test_a_tiny_model_on_a_cpu(tmp_path, capsys):
    gpu.main(["tiny", "--device", "cpu", "--rounds", "2", "--out", str(tmp_path)])
    rows = [
        json.loads(line)
        for line in (tmp_path / "rows.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    assert len(capsys.readouterr().out.splitlines()) == len(rows)
    steps = {row["name"]: row for row in rows if row["case"] == "step"}
    assert {"torch.optim.Muon", "AdamW, fused", "normball", "normball, reuse_grad"} <= set(steps)
    assert steps["torch.optim.Muon"]["ratio"] == 1
    assert all(row["ms"] > 0 for row in steps.values())
    assert steps["normball"]["of_gemm_peak"] > 0
    (absent,) = [row["peers"] for row in rows if row["case"] == "absent"]
    assert ("gram-newton-schulz" in absent) != (gpu.GRAM_PLAIN in steps)
    assert {row["case"] for row in rows} == {"floor", "step", "clipping", "training", "absent"}
    (training,) = [row for row in rows if row["case"] == "training"]
    whole = training["forward_and_backward_ms"] * 2**19 / training["tokens"]
    for name, share in training["shares_of_the_step"].items():
        assert share == pytest.approx(
            steps[name]["ms"] / (steps[name]["ms"] + whole), rel=0.01, abs=1e-5
        )


def test_an_older_torch_without_muon_is_named(monkeypatch):
    monkeypatch.delattr(torch.optim, "Muon", raising=False)
    with pytest.raises(SystemExit, match=r"came with torch 2\.9, .*: update torch"):
        peers.muon([])


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so(tmp_path, capsys):
    with pytest.raises(SystemExit):
        gpu.main(["--out", str(tmp_path / "none")])
    assert "no CUDA device is there" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()


def test_the_sizes_are_those_named():
    for name, about in (("124M", 124e6), ("1B", 1e9)):
        count = sum(m * n for m, n in gpu.MODELS[name].shapes())
        assert abs(count / about - 1) < 0.12


def test_operations_are_counted():
    """Against torch's own counter."""
    from torch.utils.flop_counter import FlopCounterMode

    for shape in ((64, 64), (70, 200), (200, 70)):
        with FlopCounterMode(display=False) as counter:
            gpu.HALF(torch.randn(shape))
        assert counter.get_total_flops() == floor.half_flops([shape])
