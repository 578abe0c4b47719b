"""Marks for tests of what is not everywhere: they are skipped where it is missing, and say why."""

from pathlib import Path

import pytest
import torch

muon = pytest.mark.skipif(
    not hasattr(torch.optim, "Muon"), reason="torch.optim.Muon came with torch 2.9"
)
fsdp_on_cpu = pytest.mark.skipif(
    not hasattr(torch.cpu.Stream, "record_event"), reason="FSDP2 of torch 2.6 needs a GPU"
)

records = pytest.mark.skipif(
    not (Path(__file__).parent.parent / "results").exists(),
    reason="records and pictures are in the repository, not in the sdist",
)


def optimizers(names):
    """Return the names of the lab's optimizers as parameters of a test."""
    return [pytest.param(name, marks=muon if name == "muon" else ()) for name in names]
