"""torchtitan's mixture of experts with Clipped Scion on CPU ranks: one way to spread the model.

    torchrun --standalone --nproc-per-node 2 trial.py experts FOLDER --double

As the trial of the dense model, with the small DeepSeek-V3 cut to its first `LAYERS`. The experts
are multiplied one by one in the dtype of the weights, where torchtitan multiplies all together in
bfloat16.
"""

import sys
from pathlib import Path

import torch
from torch.distributed.tensor import DTensor
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).parents[1] / "2026-11-28-torchtitan"))
import trial  # it gives torchtitan the CPU

# isort: split
from torchtitan.models.common import moe
from torchtitan.models.deepseek_v3 import model_registry

LAYERS, STEPS = 3, 10


def small(name):
    """Return the model that torchtitan registers, with fewer layers."""
    spec = model_registry(name)
    del spec.model.layers[LAYERS:]
    return spec


def forward(self, x, counts):
    """Return what every expert makes of its own rows of `x`."""
    w1, w2, w3 = (
        w.to_local() if isinstance(w, DTensor) else w
        for w in (self.w1_EFD, self.w2_EDF, self.w3_EFD)
    )
    parts = x.split([int(count) for count in counts])
    made = [
        F.linear(F.silu(F.linear(part, a)) * F.linear(part, c), b)
        for part, a, b, c in zip(parts, w1, w2, w3, strict=True)
    ]
    return torch.cat(made)


if __name__ == "__main__":
    moe.GroupedExperts.forward = forward
    trial.model_registry, trial.STEPS = small, STEPS
    trial.WAYS["experts"] = {"data_parallel_shard_degree": 2, "expert_parallel_degree": 2}
    trial.main()
