"""A model with every kind of layer, and the ways to spread it over ranks."""

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_tensor
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    PrepareModuleInput,
    RowwiseParallel,
    SequenceParallel,
    parallelize_module,
)
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from normball.norms import RMS, Blocks, Column, Row, Sign, Spectral, SpectralConv
from normball.polar import SVD, Eigh

ROWS, LENGTH, TOKENS, WIDTH, HIDDEN, EXPERTS = 12, 12, 11, 5, 12, 6


class Mlp(nn.Module):
    """Gain and bias, and two matrices."""

    def __init__(self):
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.up = nn.Linear(WIDTH, HIDDEN)
        self.down = nn.Linear(HIDDEN, WIDTH)

    def forward(self, h):
        return self.down(torch.tanh(self.up(self.norm(h))))


class Network(nn.Module):
    """Embedding with a tied head, convolution, MLP, a stack of experts, fused maps.

    Sizes that few numbers of ranks divide, so that shards are uneven or empty; but the hidden
    width and the length are divided, as torch's own tensor parallelism asks.
    """

    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(TOKENS, WIDTH)
        self.position = nn.Embedding(LENGTH, WIDTH)
        self.conv = nn.Conv1d(WIDTH, WIDTH, 3, padding=1)
        self.mlp = Mlp()
        self.fused = nn.Linear(WIDTH, 2 * WIDTH, bias=False)
        self.experts = nn.Parameter(0.3 * torch.randn(EXPERTS, WIDTH, WIDTH))
        self.head = nn.Linear(WIDTH, TOKENS, bias=False)
        self.head.weight = self.table.weight
        for table in (self.table, self.position):
            nn.init.uniform_(table.weight, -0.7, 0.7)

    def forward(self, tokens, places=None, chosen=slice(None)):
        """Return logits; `places` of the table of positions, `chosen` experts, by default all."""
        table, position, experts = map(
            gathered, (self.table.weight, self.position.weight, self.experts)
        )
        h = F.embedding(tokens, table) + (position if places is None else position[places])
        h = h + torch.tanh(self.conv(h.mT)).mT
        h = h + self.mlp(h)
        a, b = self.fused(h).chunk(2, -1)
        h = h + torch.tanh(a) * b
        h = (h + torch.einsum("bsi,eji->bsj", h, experts[chosen])).mean(1)
        return F.linear(h, gathered(self.head.weight))


def gathered(x):
    """Return all of a parameter that no wrapper gathers."""
    if not isinstance(x, DTensor):
        return x
    if not getattr(x, "averaged", False):
        return x.full_tensor()
    # Every rank has its own rows of the batch: the gradient is the mean over ranks, as FSDP's.
    whole = x.full_tensor(grad_placements=[Partial()] * x.device_mesh.ndim)
    whole.register_hook(lambda grad: grad / dist.get_world_size())
    return whole


def network(dtype=torch.float64):
    torch.manual_seed(0)
    return Network().to(dtype)


def batch(step):
    generator = torch.Generator().manual_seed(step)
    # Three tokens a batch: the gradients of most layers are of low rank.
    tokens = torch.randint(0, 3, (ROWS, LENGTH), generator=generator) + step % 5
    return tokens, (tokens.sum(1) + step) % TOKENS


# Exact factors, so that gradients of low rank agree to rounding.
NORMS = {
    "table.weight": (Sign(), 4.0),
    "position.weight": (Column(transposed=True), 1.0),
    "conv.weight": (SpectralConv(polar=SVD()), 3.0),
    "mlp.up.weight": (Spectral(polar=SVD()), 3.0),
    "mlp.down.weight": (Row(), 4.0),
    "fused.weight": (Blocks(Spectral(polar=SVD()), 2), 3.0),
    "experts": (Spectral(polar=SVD()), 3.0),
}


# The same, but both matrices of the MLP have factors that their Gram matrices give.
OF_GRAM = NORMS | {f"mlp.{name}.weight": (Spectral(polar=Eigh()), 3.0) for name in ("up", "down")}


def groups(model, norms=NORMS):
    """Return every norm's parameter, and all vectors together."""
    named = {plain_name(name): p for name, p in model.named_parameters()}
    made = [
        {"params": [named.pop(name)], "norm": norm, "radius": radius}
        for name, (norm, radius) in norms.items()
    ]
    return [*made, {"params": list(named.values()), "norm": RMS(), "radius": 1.5}]


def plain_name(name):
    """Return the name of a parameter without those of wrappers."""
    return name.removeprefix("module.").replace("_checkpoint_wrapped_module.", "")


def whole(tensors):
    """Return copies of named tensors, gathered, under their plain names."""
    return {
        plain_name(name): (x.full_tensor() if isinstance(x, DTensor) else x).detach().clone()
        for name, x in tensors
    }


def loss(model, step, share=slice(None), sparse=False):
    """Return the loss of a batch.

    Where it is `sparse`, rows of the tied table and of the positions, and experts, have no
    gradient: those of other steps.
    """
    tokens, target = batch(step)
    if not sparse:
        return F.cross_entropy(model(tokens[share]), target[share])
    places = (torch.arange(LENGTH) // 4 + step) % LENGTH
    chosen = [step % EXPERTS, (step + 2) % EXPERTS]
    known = [i + step % 5 for i in range(3)]  # the tokens of this batch
    return F.cross_entropy(model(tokens[share], places, chosen)[:, known], target[share] % 3)


# -- ways: return the model and the share of the batch that this rank takes ------------------------


def alone(model):
    return model, slice(None)


def ddp(model):
    rank, ranks = dist.get_rank(), dist.get_world_size()
    return DistributedDataParallel(model), slice(rank, None, ranks)


def fsdp(model, mesh=None, share=None, **policies):
    for layer in (model.conv, model.mlp):
        fully_shard(layer, mesh=mesh, **policies)
    if share is None:
        share = slice(dist.get_rank(), None, dist.get_world_size())
    return fully_shard(model, mesh=mesh, **policies), share


def hybrid(model):
    ranks = dist.get_world_size()
    mesh = init_device_mesh("cpu", (2, ranks // 2), mesh_dim_names=("replicate", "shard"))
    return fsdp(model, mesh)


def tensor_parallel(model, mesh=None):
    """Columns, rows and a sequence-parallel gain in the MLP, experts over ranks."""
    mesh = mesh or init_device_mesh("cpu", (dist.get_world_size(),), mesh_dim_names=("tp",))
    plan = {
        "mlp": PrepareModuleInput(input_layouts=(Replicate(),), desired_input_layouts=(Shard(1),)),
        "mlp.norm": SequenceParallel(),
        "mlp.up": ColwiseParallel(input_layouts=Shard(1)),
        "mlp.down": RowwiseParallel(),
    }
    parallelize_module(model, mesh, plan)
    model.experts = nn.Parameter(distribute_tensor(model.experts.detach(), mesh, [Shard(0)]))
    return model, slice(None)


def columns(model):
    """Both tables across their rows, and the experts across the matrices."""
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))

    def cut(p):
        return nn.Parameter(distribute_tensor(p.detach(), mesh, [Shard(1)]))

    model.table.weight = model.head.weight = cut(model.table.weight)
    model.position.weight, model.experts = cut(model.position.weight), cut(model.experts)
    return model, slice(None)


def mixed(model):
    """FSDP over tensor parallelism."""
    ranks = dist.get_world_size()
    mesh = init_device_mesh("cpu", (2, ranks // 2), mesh_dim_names=("dp", "tp"))
    tensor_parallel(model, mesh["tp"])
    return fsdp(model, mesh["dp"], slice(mesh.get_local_rank("dp"), None, 2))


def moe(model):
    """Dense layers over all ranks; every expert over two of them, cut along another dimension.

    So torchtitan lays out a stack that more ranks share than it has experts.
    """
    ranks = dist.get_world_size()
    mesh = init_device_mesh("cpu", (2, ranks // 2), mesh_dim_names=("efsdp", "ep"))
    stack = distribute_tensor(model.experts.detach(), mesh, [Shard(1), Shard(0)])
    model.experts = nn.Parameter(stack)
    model.experts.averaged = True
    return fsdp(model, ignored_params={model.experts})
