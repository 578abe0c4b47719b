"""A GPT over bytes of real text in pipeline stages, each sharded over ranks, resumed at will.

    torchrun --nproc-per-node 2 examples/pipeline_gpt.py --out runs/pipe --steps 100
    torchrun --nproc-per-node 4 examples/pipeline_gpt.py --out runs/pipe --steps 200 --stages 2

Every rank has the blocks of one stage, on two or more ranks per stage a part of each (FSDP2). The
threshold is still one number over all of them. A second start goes on from the last whole
checkpoint, on any number of stages and ranks: every step sees the same batch, and is the same step.
"""

import argparse
import os
from pathlib import Path

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from fsdp2_gpt import DOCS, GPT, batch, last_whole, read
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.pipelining import PipelineStage, Schedule1F1B
from torch.nn import functional as F

from normball import ClippedScion, param_groups

FLAT = StateDictOptions(flatten_optimizer_state_dict=True)


class Stage(GPT):
    """Some consecutive blocks of a GPT, under the names that they have in the whole."""

    def __init__(self, index: int, count: int, width: int, layers: int, length: int) -> None:
        super().__init__(width, layers, length)
        kept = range(layers * index // count, layers * (index + 1) // count)
        self.blocks = nn.ModuleDict({str(i): self.blocks[i] for i in kept})
        if index:
            del self.tokens, self.positions
        if index < count - 1:
            del self.norm, self.head

    def forward(self, x: Tensor) -> Tensor:
        """Take tokens or what the last stage gave; return logits or what the next one takes."""
        if hasattr(self, "tokens"):
            x = self.tokens(x) + self.positions.weight[: x.shape[1]]
        for block in self.blocks.values():
            x = block(x)
        return self.head(self.norm(x)) if hasattr(self, "head") else x


def mean_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the loss of a micro-batch."""
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten())


class Training:
    """What a checkpoint holds: entries by the names of parameters, whichever rank has them."""

    def __init__(self, stage: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        self.stage, self.optimizer, self.step = stage, optimizer, 0

    def state_dict(self) -> dict[str, object]:
        """Return the entries of this rank."""
        optimizer = get_optimizer_state_dict(self.stage, self.optimizer, options=FLAT)
        model = get_model_state_dict(self.stage)
        return {"model": model, "optimizer": optimizer, "step": self.step}

    def load_state_dict(self, state: dict[str, object]) -> None:
        """Take over what `dcp.load` has read."""
        set_model_state_dict(self.stage, state["model"])
        set_optimizer_state_dict(self.stage, self.optimizer, state["optimizer"], options=FLAT)
        self.step = int(state["step"])


def main() -> None:
    """Train, or go on."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--text", type=Path, default=DOCS, help="a text file, or a folder of .md")
    parser.add_argument("--out", type=Path, required=True, help="folder of the checkpoints")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--save-every", type=int, default=50)
    parser.add_argument("--stages", type=int, help="by default one for each rank")
    parser.add_argument("--micro-batches", type=int, default=4)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--length", type=int, default=64, help="bytes that the model sees")
    parser.add_argument("--rows", type=int, default=32, help="of a batch, over all ranks")
    options = parser.parse_args()

    cuda = torch.cuda.is_available()
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"])) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(device)
    dist.init_process_group("cpu:gloo,cuda:nccl" if cuda else "gloo")
    count = options.stages or dist.get_world_size()
    copies, rest = divmod(dist.get_world_size(), count)
    if rest or options.layers < count or options.rows % (copies * options.micro_batches):
        raise SystemExit(
            f"{dist.get_world_size()} ranks in {count} stages: the stages must divide the ranks, "
            f"with a block for each, and {copies} x {options.micro_batches} the {options.rows} rows"
        )
    mesh = init_device_mesh(device.type, (count, copies), mesh_dim_names=("pp", "dp"))
    index, share = mesh.get_local_rank("pp"), slice(mesh.get_local_rank("dp"), None, copies)

    sizes = options.width, options.layers, options.length
    with torch.device("meta"):
        plan = param_groups(GPT(*sizes))
    torch.manual_seed(0)  # every rank makes the whole start, and keeps its stage
    stage = Stage(index, count, *sizes).to(device)
    if copies > 1:
        for block in stage.blocks.values():
            fully_shard(block, mesh=mesh["dp"])
        fully_shard(stage, mesh=mesh["dp"])
    optimizer = ClippedScion(plan.of(stage), average=0.1, stages=mesh["pp"])
    pipe = PipelineStage(stage, index, count, device, group=mesh["pp"].get_group())
    schedule = Schedule1F1B(pipe, options.micro_batches, loss_fn=mean_loss)
    training = Training(stage, optimizer)
    found = last_whole(options.out)
    if found is not None:
        dcp.load({"training": training}, checkpoint_id=found)

    data = read(options.text)
    for step in range(training.step, options.steps):
        tokens, targets = (
            x[share].to(device) for x in batch(data, step, options.rows, options.length)
        )
        optimizer.zero_grad()
        losses: list[Tensor] = []
        inputs = [tokens] if index == 0 else []
        last = {"target": targets, "losses": losses} if index == count - 1 else {}
        schedule.step(*inputs, **last)
        optimizer.step()
        training.step = step + 1
        if training.step % 10 == 0:
            mean = torch.stack(losses).mean().detach() if losses else torch.zeros((), device=device)
            dist.all_reduce(mean)  # the other stages add nothing
            seen = optimizer.metrics()
            if dist.get_rank() == 0:
                figures = f"dual norm {float(seen['dual_norm']):.4g}"
                print(
                    f"step {training.step}  loss {float(mean / copies):.4f}  {figures}", flush=True
                )
        if training.step % options.save_every == 0 or training.step == options.steps:
            dcp.save({"training": training}, checkpoint_id=options.out / f"step-{training.step}")
    dist.barrier()  # gloo aborts a rank whose neighbours leave first
    if not cuda:  # its threads abort, now and then, where they are taken down
        os._exit(0)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
