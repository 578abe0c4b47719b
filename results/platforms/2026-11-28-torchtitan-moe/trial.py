"""torchtitan's mixture of experts with Clipped Scion on CPU ranks: one way to spread the model.

    torchrun --standalone --nproc-per-node 2 trial.py experts FOLDER --double

As the trial of the dense model, with the small DeepSeek-V3 cut to its first `LAYERS`. The experts
are multiplied one by one in the dtype of the weights, where torchtitan multiplies all together in
bfloat16.
"""

import sys
from pathlib import Path

import torch
import torch.distributed as dist
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


def all_to_all(outputs, inputs, group=None, async_op=False):
    """Send tensors of any sizes: gloo sends lists of equal ones alone, and one tensor in parts."""
    flat = torch.cat([x.reshape(-1) for x in inputs])
    taken = flat.new_empty(sum(x.numel() for x in outputs))
    sizes = [[x.numel() for x in xs] for xs in (outputs, inputs)]
    work = dist.all_to_all_single(taken, flat, *sizes, group=group)
    for out, part in zip(outputs, taken.split(sizes[0]), strict=True):
        out.copy_(part.view(out.shape))
    return work


if __name__ == "__main__":
    dist.all_to_all = all_to_all
    moe.GroupedExperts.forward = forward
    trial.model_registry, trial.STEPS = small, STEPS
    trial.WAYS["experts"] = {"data_parallel_shard_degree": 2, "expert_parallel_degree": 2}
    trial.main()
