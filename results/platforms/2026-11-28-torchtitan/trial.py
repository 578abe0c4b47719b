"""torchtitan's trainer with Clipped Scion on CPU ranks with gloo: one way to spread the model.

    torchrun --standalone --nproc-per-node 2 trial.py fsdp FOLDER

Writes the dual norm of every step and, from rank 0, all weights.
"""

import argparse
import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import torch
import torch.distributed as dist
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor, distribute_tensor
from torchtitan.tools import utils

# torchtitan takes CUDA where it finds no accelerator: give it the CPU before the rest is imported.
CPU = SimpleNamespace(
    **{name: getattr(torch.cpu, name) for name in ("set_device", "synchronize")},
    current_device=lambda: 0,
    get_device_name=lambda *_: "cpu",
    get_device_properties=lambda *_: SimpleNamespace(total_memory=2**30),
    memory_stats=lambda *_: {},
    reset_peak_memory_stats=lambda *_: None,
    empty_cache=lambda: None,
    Stream=torch.cpu.Stream,
)
utils.device_type, utils.device_module = "cpu", CPU
if not hasattr(dist, "set_timeout"):  # newer than torch 2.13; only a timeout is set with it
    dist.set_timeout = lambda *_: None

from torchtitan.components.checkpoint import CheckpointManager  # noqa: E402
from torchtitan.components.checkpointer.utils import canonical_fqn  # noqa: E402
from torchtitan.components.dataloader import BaseDataLoader  # noqa: E402
from torchtitan.components.loss import CrossEntropyLoss  # noqa: E402
from torchtitan.components.optimizer import LRSchedulersContainer  # noqa: E402
from torchtitan.components.tokenizer import BaseTokenizer  # noqa: E402
from torchtitan.config import TORCH_DTYPE_MAP, ParallelismConfig, TrainingConfig  # noqa: E402
from torchtitan.distributed.activation_checkpoint import FullAC  # noqa: E402
from torchtitan.models.common import attention  # noqa: E402
from torchtitan.models.llama3 import model_registry  # noqa: E402
from torchtitan.tools.logging import init_logger  # noqa: E402
from torchtitan.trainer import Trainer  # noqa: E402

sys.path.append(str(Path(__file__).parents[3] / "examples"))
from torchtitan_llama import with_norm_balls  # noqa: E402

ROWS, LENGTH, TOKENS, STEPS = 8, 32, 2048, 4
WAYS = {
    "alone": {},
    "fsdp": {"data_parallel_shard_degree": 2},
    "hsdp": {"data_parallel_replicate_degree": 2, "data_parallel_shard_degree": 2},
    "replicas": {"data_parallel_replicate_degree": 2, "data_parallel_shard_degree": 1},
    "tensor": {"tensor_parallel_degree": 2},
    "pipeline": {"pipeline_parallel_degree": 2},
    "interleaved": {
        "pipeline_parallel_degree": 2,
        "pipeline_parallel_schedule": "Interleaved1F1B",
        "pipeline_parallel_layers_per_stage": 2,
    },
    "pipeline-fsdp": {"pipeline_parallel_degree": 2, "data_parallel_shard_degree": 2},
    "fsdp-tensor": {"data_parallel_shard_degree": 2, "tensor_parallel_degree": 2},
}


class NoTokenizer(BaseTokenizer):
    """The data are tokens already."""

    @dataclass(kw_only=True, slots=True)
    class Config(BaseTokenizer.Config):
        """Nothing to set."""

    def __init__(self, config, **_):
        super().__init__()

    def encode(self, *_, **__):
        raise NotImplementedError

    def decode(self, *_, **__):
        raise NotImplementedError

    def get_vocab_size(self):
        return TOKENS


class Sequences(BaseDataLoader):
    """Sequences whose next token is a function of the last one; rank r takes every n-th row."""

    @dataclass(kw_only=True, slots=True)
    class Config(BaseDataLoader.Config):
        """Nothing to set."""

    def __init__(self, config, *, dp_world_size, dp_rank, local_batch_size, **_):
        self.ranks, self.rank, self.rows = dp_world_size, dp_rank, local_batch_size
        self.step = 0

    def __iter__(self):
        while True:
            rows = []
            for part in range(ROWS // self.ranks):
                generator = torch.Generator().manual_seed(
                    ROWS * self.step + part * self.ranks + self.rank
                )
                row = [int(torch.randint(64, (), generator=generator))]
                for _ in range(LENGTH):
                    row.append((5 * row[-1] + 1) % 64)
                rows.append(row)
            self.step += 1
            tokens = torch.tensor(rows)
            for some in tokens.split(self.rows):
                places = torch.arange(LENGTH).expand(len(some), LENGTH)
                yield {"input": some[:, :-1], "positions": places}, some[:, 1:]

    def state_dict(self):
        return {"step": self.step}

    def load_state_dict(self, state):
        self.step = state["step"]


def configuration(way, folder, steps, checkpoint, backend):
    spec = model_registry("debugmodel")
    for _, _, parent, name in spec.model.traverse(attention.FlexAttention.Config):
        setattr(parent, name, attention.ScaledDotProductAttention.Config())
    ranks = int(os.environ["WORLD_SIZE"])
    parallelism = ParallelismConfig(spmd_backend=backend, **WAYS[way])
    batches = parallelism.data_parallel_replicate_degree * max(
        1, parallelism.data_parallel_shard_degree
    )
    if ranks == 1:
        batches = 1
    return with_norm_balls(
        Trainer.Config(
            loss=CrossEntropyLoss.Config(global_vocab_size=TOKENS),
            hf_assets_path=str(folder),
            dump_folder=str(folder),
            model_spec=spec,
            tokenizer=NoTokenizer.Config(),
            dataloader=Sequences.Config(),
            lr_scheduler=LRSchedulersContainer.Config(warmup_steps=2, total_steps=STEPS),
            training=TrainingConfig(
                local_batch_size=ROWS // batches,
                seq_len=LENGTH,
                steps=steps,
                mixed_precision_param="float32",
                disable_cuda_graphs=True,
            ),
            parallelism=parallelism,
            checkpoint=CheckpointManager.Config(
                enable=checkpoint, interval=2, last_save_model_only=False
            ),
            activation_checkpoint=FullAC.Config(),
        ),
        rho=600.0,
    )


def same_start(parts):
    """Give every parameter the same initial value, however it is cut."""
    with torch.no_grad():
        for part in parts:
            for name, p in part.named_parameters():
                seed = sum(canonical_fqn(name).encode())
                x = torch.randn(p.shape, generator=torch.Generator().manual_seed(seed))
                x = 1 + 0.1 * x if p.dim() == 1 else x * p.shape[1] ** -0.5
                cut = isinstance(p, DTensor)
                p.copy_(distribute_tensor(x, p.device_mesh, p.placements) if cut else x)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("way", choices=WAYS)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--checkpoint", action="store_true")
    parser.add_argument("--double", action="store_true", help="float64 where torchtitan has fp32")
    parser.add_argument("--backend", default="spmd_types", help="torchtitan's spmd_backend")
    options = parser.parse_args()
    init_logger()
    options.folder.mkdir(parents=True, exist_ok=True)
    if options.double:
        TORCH_DTYPE_MAP["float32"] = torch.float64
    trainer = configuration(
        options.way, options.folder, options.steps, options.checkpoint, options.backend
    ).build()
    for part in trainer.model_parts:
        for module in part.modules():
            if isinstance(module, FSDPModule):  # gloo has no sums of scaled terms
                module.set_force_sum_reduction_for_comms(True)
    same_start(trainer.model_parts)
    seen = []

    def note(*_):
        figures = optimizer.metrics()
        if figures["dual_norm"] > 0:  # not the step without gradients that makes a state to load
            seen.append({name: float(figures[name]) for name in ("dual_norm", "step_factor")})

    (optimizer,) = trainer.optimizers
    optimizer.register_step_post_hook(note)
    trainer.train()
    weights = {
        canonical_fqn(name): (p.full_tensor() if isinstance(p, DTensor) else p).detach().clone()
        for part in trainer.model_parts
        for name, p in part.named_parameters()
    }
    torch.save({"seen": seen, "weights": weights}, options.folder / f"rank-{dist.get_rank()}.pt")
    if dist.get_rank() == 0:
        print(json.dumps([round(one["dual_norm"], 4) for one in seen]), flush=True)
    dist.barrier()
    os._exit(0)


if __name__ == "__main__":
    main()
