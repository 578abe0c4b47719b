"""A GPT over bytes of real text, its parameters sharded over all ranks (FSDP2), resumed at will.

    torchrun --nproc-per-node 2 examples/fsdp2_gpt.py --out runs/gpt --steps 100
    torchrun --nproc-per-node 4 examples/fsdp2_gpt.py --out runs/gpt --steps 200   # goes on

On GPUs with NCCL, on CPUs with gloo. A second start goes on from the last whole checkpoint, on any
number of ranks: every step sees the same batch, whatever their number, and takes the same step.
So does `torchrun --max-restarts 3`, with TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1, after a rank died.
"""

import argparse
import os
from pathlib import Path

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.fsdp import fully_shard
from torch.nn import functional as F

from normball import ClippedScion, param_groups

DOCS = Path(__file__).parent.parent / "docs"


class Block(nn.Module):
    """Attention and MLP, each behind a norm."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.RMSNorm(width), nn.RMSNorm(width)
        self.query, self.key, self.value = (nn.Linear(width, width, bias=False) for _ in range(3))
        self.out = nn.Linear(width, width, bias=False)
        self.up = nn.Linear(width, 4 * width, bias=False)
        self.down = nn.Linear(4 * width, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Take and return shape `(batch, length, width)`."""
        h = self.norm1(x)
        q, k, v = (
            f(h).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for f in (self.query, self.key, self.value)
        )
        h = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(h.transpose(1, 2).flatten(2))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class GPT(nn.Module):
    """A causal language model over the 256 bytes."""

    def __init__(self, width: int, layers: int, length: int) -> None:
        super().__init__()
        self.tokens, self.positions = nn.Embedding(256, width), nn.Embedding(length, width)
        self.blocks = nn.ModuleList(Block(width, heads=4) for _ in range(layers))
        self.norm = nn.RMSNorm(width)
        self.head = nn.Linear(width, 256, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the logits `(batch, length, 256)` of the next bytes of `(batch, length)`."""
        x = self.tokens(tokens) + self.positions.weight[: tokens.shape[1]]
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


def read(path: Path) -> Tensor:
    """Return a text file, or all Markdown of a folder, as bytes."""
    files = sorted(path.rglob("*.md")) if path.is_dir() else [path]
    return torch.tensor(list(b"".join(file.read_bytes() for file in files)))


def batch(data: Tensor, step: int, rows: int, length: int) -> tuple[Tensor, Tensor]:
    """Return the inputs and targets of a step, all ranks together: a function of the step alone."""
    generator = torch.Generator().manual_seed(step)
    starts = torch.randint(len(data) - length, (rows,), generator=generator)
    pieces = data[starts[:, None] + torch.arange(length + 1)]
    return pieces[:, :-1], pieces[:, 1:]


def last_whole(folder: Path) -> Path | None:
    """Return the newest checkpoint that was finished: its `.metadata` is written last."""
    whole = [file.parent for file in folder.glob("step-*/.metadata")]
    return max(whole, key=lambda path: int(path.name.removeprefix("step-")), default=None)


class Training:
    """What a checkpoint holds, in the form that torch.distributed.checkpoint asks for."""

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        self.model, self.optimizer, self.step = model, optimizer, 0

    def state_dict(self) -> dict[str, object]:
        """Return sharded tensors under the names of the model, whatever the number of ranks."""
        model, optimizer = get_state_dict(self.model, self.optimizer)
        return {"model": model, "optimizer": optimizer, "step": self.step}

    def load_state_dict(self, state: dict[str, object]) -> None:
        """Take over what `dcp.load` has read."""
        set_state_dict(
            self.model,
            self.optimizer,
            model_state_dict=state["model"],
            optim_state_dict=state["optimizer"],
        )
        self.step = int(state["step"])


def main() -> None:
    """Train, or go on."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--text", type=Path, default=DOCS, help="a text file, or a folder of .md")
    parser.add_argument("--out", type=Path, required=True, help="folder of the checkpoints")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--save-every", type=int, default=50)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--length", type=int, default=64, help="bytes that the model sees")
    parser.add_argument("--rows", type=int, default=24, help="of a batch, over all ranks")
    parser.add_argument("--lr", type=float, default=2**-6)
    parser.add_argument("--rho", type=float, default=20.0, help="the same on any number of ranks")
    options = parser.parse_args()

    cuda = torch.cuda.is_available()
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"])) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(device)
    dist.init_process_group("cpu:gloo,cuda:nccl" if cuda else "gloo")
    rank, ranks = dist.get_rank(), dist.get_world_size()
    if options.rows % ranks:
        raise SystemExit(f"--rows {options.rows} must be a multiple of the {ranks} ranks")
    if not cuda and not hasattr(torch.cpu.Stream, "record_event"):
        raise SystemExit(f"FSDP2 of torch {torch.__version__} needs a GPU: update to torch 2.7")

    torch.manual_seed(0)
    model = GPT(options.width, options.layers, options.length).to(device)
    for block in model.blocks:
        fully_shard(block)
    fully_shard(model)
    optimizer = ClippedScion(param_groups(model, output_radius=200), lr=options.lr, rho=options.rho)
    training = Training(model, optimizer)
    found = last_whole(options.out)
    if found is not None:
        dcp.load({"training": training}, checkpoint_id=found)

    data = read(options.text)
    for step in range(training.step, options.steps):
        tokens, targets = (
            x[rank::ranks].to(device) for x in batch(data, step, options.rows, options.length)
        )
        optimizer.zero_grad()
        loss = F.cross_entropy(model(tokens).flatten(0, 1), targets.flatten())
        loss.backward()
        optimizer.step()
        training.step = step + 1
        if training.step % 10 == 0:
            mean = loss.detach() / ranks
            dist.all_reduce(mean)
            seen = optimizer.metrics()
            if rank == 0:
                figures = f"dual norm {float(seen['dual_norm']):.4g}"
                print(f"step {training.step}  loss {float(mean):.4f}  {figures}", flush=True)
        if training.step % options.save_every == 0 or training.step == options.steps:
            dcp.save({"training": training}, checkpoint_id=options.out / f"step-{training.step}")
    dist.barrier()  # gloo aborts a rank whose neighbours leave first
    if not cuda:  # its threads abort, now and then, where they are taken down
        os._exit(0)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
