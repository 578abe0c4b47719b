"""A model in stages, and the ways to train them on ranks that hold different parameters."""

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.pipelining import (
    PipelineStage,
    Schedule1F1B,
    ScheduleGPipe,
    ScheduleInterleaved1F1B,
)
from torch.distributed.tensor import DTensor
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    RowwiseParallel,
    parallelize_module,
)
from torch.nn import functional as F

from normball import param_groups
from normball.polar import SVD

TOKENS, WIDTH, HIDDEN, LENGTH, ROWS, MICRO, LAYERS = 11, 6, 8, 5, 8, 4, 4


class Layer(nn.Module):
    """A residual layer of a gain, two matrices and biases."""

    def __init__(self):
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.up = nn.Linear(WIDTH, HIDDEN)
        self.down = nn.Linear(HIDDEN, WIDTH)

    def forward(self, h):
        return h + self.down(torch.tanh(self.up(self.norm(h))))


class Network(nn.Module):
    """A table, layers, and a head tied to the table; a stage has some of them only."""

    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(TOKENS, WIDTH)
        self.layers = nn.ModuleDict({str(i): Layer() for i in range(LAYERS)})
        self.head = nn.Linear(WIDTH, TOKENS, bias=False)
        self.head.weight = self.table.weight

    def forward(self, h):
        """Return logits, or what the next stage takes in; `h` are tokens, or what the last gave."""
        if self.table is not None:
            h = self.table(h)
        for layer in self.layers.values():
            h = layer(h)
        return h if self.head is None else self.head(h)


def whole(dtype=torch.float64):
    torch.manual_seed(0)
    return Network().to(dtype)


def stage_of(index, count):
    """Return the stage with that index, with parameters of its own."""
    model = whole()
    per = LAYERS // count
    model.layers = nn.ModuleDict(
        {str(i): model.layers[str(i)] for i in range(index * per, (index + 1) * per)}
    )
    if index < count - 1:
        model.head = None
    if index > 0:
        model.table = None
    return model


def plan_of(model):
    """Return exact groups; wide tables and narrow ones alike, so that all norms are met."""
    return param_groups(model, polar=SVD(), radius=3.0, output_radius=4.0)


def batch(step):
    generator = torch.Generator().manual_seed(step)
    x = torch.randint(0, TOKENS, (ROWS, LENGTH), generator=generator)
    return x, (x + step) % TOKENS


def loss_of(logits, target):
    return F.cross_entropy(logits.flatten(0, 1), target.flatten())


SCHEDULES = {
    "gpipe": (ScheduleGPipe, 1),
    "1f1b": (Schedule1F1B, 1),
    "interleaved": (ScheduleInterleaved1F1B, 2),
}

# The dimensions of the mesh inside of a stage, each of two ranks.
INNER = {
    "": (),
    "ddp": ("dp",),
    "fsdp": ("dp",),
    "tp": ("tp",),
    "fsdp-tp": ("dp", "tp"),
    "hybrid": ("replicate", "shard"),
}


class Pipeline:
    """The stages of this rank, trained by one of torch's schedules.

    Args:
        schedule: a key of `SCHEDULES`.
        inner: what lies inside of a stage, a key of `INNER`.
        mean: whether every pass divides the gradients by the number of micro-batches.
    """

    def __init__(self, schedule, inner="", mean=True):
        kind, chunks = SCHEDULES[schedule]
        dims = INNER[inner]
        shape = (dist.get_world_size() // 2 ** len(dims), *(2 for _ in dims))
        self.mesh = init_device_mesh("cpu", shape, mesh_dim_names=("pp", *dims))
        self.data = [dim for dim in dims if dim != "tp"]
        self.inner, pp = inner, self.mesh["pp"]
        self.count = chunks * pp.size()
        mine = [pp.get_local_rank() + i * pp.size() for i in range(chunks)]
        self.models = {i: self.spread(stage_of(i, self.count)) for i in mine}
        stages = [
            PipelineStage(model, i, self.count, torch.device("cpu"), group=pp.get_group())
            for i, model in self.models.items()
        ]
        parts = MICRO // 2 ** len(self.data)
        self.schedule = kind(
            stages if chunks > 1 else stages[0], parts, loss_fn=loss_of, scale_grads=mean
        )
        self.last = self.count - 1 in self.models
        ends = [self.mesh.mesh[i].flatten().tolist() for i in (0, -1)]
        self.ties = [dist.new_group(sorted(set(pair))) for pair in zip(*ends, strict=True)]

    def spread(self, model):
        if "tp" in self.inner:
            plan = {"up": ColwiseParallel(), "down": RowwiseParallel()}
            for layer in model.layers.values():
                parallelize_module(layer, self.mesh["tp"], plan)
        if self.data and self.inner != "ddp":
            return fully_shard(model, mesh=self.mesh[tuple(self.data)])
        return model

    def plan(self):
        """Return the groups of all stages of this rank."""
        with torch.device("meta"):  # moved there, the tied weights would come apart
            plan = plan_of(Network())
        return [group for model in self.models.values() for group in plan.of(model)]

    def named_parameters(self):
        return [pair for model in self.models.values() for pair in model.named_parameters()]

    def backward(self, *steps):
        """Compute the gradients of batches, their sum, as a step takes them."""
        number = 0
        for dim in self.data:
            number = 2 * number + self.mesh.get_local_rank(dim)
        share = slice(number, None, 2 ** len(self.data))
        for step in steps:
            x, target = (part[share] for part in batch(step))
            x = [x] if 0 in self.models else []
            self.schedule.step(*x, **({"target": target} if self.last else {}))
        if self.inner == "ddp":
            for _, p in self.named_parameters():
                dist.all_reduce(p.grad, group=self.mesh["dp"].get_group())
                p.grad.div_(2)
        for i, tied in ((0, "table"), (self.count - 1, "head")):
            if i in self.models and self.count > 1 and self.tie() is not None:
                p = getattr(self.models[i], tied).weight
                grad = p.grad.to_local() if isinstance(p.grad, DTensor) else p.grad
                dist.all_reduce(grad, group=self.tie())

    def tie(self):
        """Return the group of the two ranks that hold the tied weights, if this is one."""
        found = [g for g in self.ties if dist.get_rank() in dist.get_process_group_ranks(g)]
        return found[0] if found else None


def gathered(tensors):
    """Return whole copies of named tensors of all stages; every name once."""
    mine = {
        name: (x.full_tensor() if isinstance(x, DTensor) else x).detach().clone()
        for name, x in tensors
    }
    found = [None] * dist.get_world_size()
    dist.all_gather_object(found, mine)
    return [(name, x) for part in found for name, x in part.items()]
