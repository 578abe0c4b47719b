"""The step on a CUDA GPU: what a CPU, fake tensors and a tape can only promise.

Every test takes its device from one fixture. A machine without a GPU skips them all, unless
`NORMBALL_GPU_TESTS=cpu` asks for those that make sense there.
"""

import copy
import os

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from normball import ClippedScion, Scion, param_groups
from normball.norms import Sign, Spectral
from normball.polar import Auto, PolarExpress
from tests import needs
from tests.optim.network import build
from tests.optim.optimizers import LAYERED

pytestmark = pytest.mark.filterwarnings("ignore:.*")
ON_CPU = os.environ.get("NORMBALL_GPU_TESTS") == "cpu"
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")


@pytest.fixture
def device():
    if torch.cuda.is_available():
        return torch.device("cuda")
    if ON_CPU:
        return torch.device("cpu")
    pytest.skip("needs a CUDA GPU")


def gradients(model, step):
    """Write the gradients of one batch, computed on the CPU, into the memory they have."""
    generator = torch.Generator().manual_seed(step)
    for p in model.parameters():
        g = torch.randn(p.shape, generator=generator).to(p.device, p.dtype)
        p.grad = g if p.grad is None else p.grad.copy_(g)


def shrink(model):
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(0.1)
    return model


@pytest.mark.parametrize("row", LAYERED, ids=str)
def test_training_is_that_of_the_cpu(row, device):
    """In float64, to rounding: weights, dual norm or gap, and step factor of 20 steps."""
    here, there = shrink(build()), shrink(build())
    here.to(device)
    polar = PolarExpress(20, 1e-6)
    ours, theirs = row(row.groups(here, polar), 0.02), row(row.groups(there, polar), 0.02)
    for step in range(20):
        gradients(here, step)
        gradients(there, step)
        ours.step()
        theirs.step()
        for name, value in theirs.metrics().items():
            assert torch.allclose(ours.metrics()[name].cpu(), value, rtol=1e-8, atol=1e-12), name
    for p, q in zip(here.parameters(), there.parameters(), strict=True):
        assert torch.allclose(p.cpu(), q, rtol=1e-8, atol=1e-10)


@needs_cuda
@pytest.mark.parametrize("options", [{}, {"reuse_grad": True}], ids=str)
@pytest.mark.parametrize("row", LAYERED, ids=str)
def test_a_step_waits_for_nothing(row, options):
    """Torch's own debug mode raises at every synchronisation."""
    model = shrink(build(torch.float32)).cuda()
    optimizer = row(row.groups(model, Auto()), **options)
    for step in range(2):
        gradients(model, step)
        optimizer.step()
    torch.cuda.synchronize()
    grads = [[torch.randn_like(p) for p in model.parameters()] for _ in range(3)]
    torch.cuda.set_sync_debug_mode("error")
    try:
        for new in grads:
            for p, g in zip(model.parameters(), new, strict=True):
                p.grad = g
            optimizer.step()
        optimizer.metrics()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert int(optimizer.metrics()["skipped"]) == 0


@needs_cuda
@pytest.mark.parametrize("row", LAYERED, ids=str)
def test_a_captured_step_is_a_step(row):
    """Bit for bit over ten replays, with other gradients and another lr, and one NaN."""
    one, two = (shrink(build(torch.float32)).cuda() for _ in range(2))
    ours = row(row.groups(one, Auto()), 0.03, capturable=True)
    theirs = row(row.groups(two, Auto()), 0.03, capturable=True)

    def both(step, take):
        for model, optimizer in ((one, ours), (two, theirs)):
            gradients(model, step)
            if step == 7:
                next(model.parameters()).grad.view(-1)[0] = float("nan")
            for group in optimizer.param_groups:
                group["lr"].fill_(0.03 / (1 + step))
        take()
        theirs.step()

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for step in range(3):
            both(step, ours.step)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    saved = copy.deepcopy([p.detach().clone() for p in one.parameters()])
    with torch.cuda.graph(graph):
        ours.step()
    for p, before in zip(one.parameters(), saved, strict=True):
        assert torch.equal(p, before), "a capture must not step"
    for step in range(3, 13):
        both(step, graph.replay)
        for p, q in zip(one.parameters(), two.parameters(), strict=True):
            assert torch.equal(p, q), step
    assert int(ours.metrics()["skipped"]) == int(theirs.metrics()["skipped"]) == 1


SHAPES = [(64, 64), (768, 768), (3072, 768), (768, 3072), (4, 256, 512), (1536, 96)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("spread", [0.0, 4.0, 8.0])
def test_the_accuracy_of_the_default_factor(shape, spread, device):
    """Against a float64 SVD: the dual norm within 0.2 %, no singular value above 1 + 5e-3."""
    if device.type == "cpu" and max(shape) > 1024:
        pytest.skip("minutes on a CPU")
    size = min(shape[-2:])
    generator = torch.Generator().manual_seed(size)
    u, s, vh = torch.linalg.svd(
        torch.randn(shape, dtype=torch.float64, generator=generator), full_matrices=False
    )
    if spread:
        s = torch.logspace(0, -spread, size, dtype=torch.float64).expand_as(s)
    x = (u * s.unsqueeze(-2)) @ vh
    lmo, dual = Spectral("plain").lmo_and_dual(x.float().to(device))
    exact = s.sum() if lmo.ndim == 2 else s.sum(-1).sum()
    assert abs(float(dual.sum()) / float(exact) - 1) <= 2e-3
    assert float(torch.linalg.matrix_norm(lmo.double().cpu(), 2).max()) <= 1 + 5e-3


@pytest.mark.parametrize("backend", ["eager", pytest.param("inductor", marks=needs_cuda)])
def test_a_compiled_step(backend, device):
    torch._dynamo.reset()

    def made():
        torch.manual_seed(0)
        shapes = [(64, 64), (64, 64), (9,), (40, 6)]
        params = [nn.Parameter(0.1 * torch.randn(shape, device=device)) for shape in shapes]
        groups = [
            {"params": params[:2], "norm": Spectral(), "radius": 3.0},
            {"params": params[2:3], "radius": 3.0},
            {"params": params[3:], "norm": Sign(), "radius": 20.0},
        ]
        return params, ClippedScion(groups, torch.tensor(0.1), rho=torch.tensor(1.0))

    (params, optimizer), (others, plain) = made(), made()
    compiled = torch.compile(optimizer.step, backend=backend)
    for i in range(5):
        for p, q in zip(params, others, strict=True):
            p.grad = torch.randn_like(p)
            q.grad = p.grad.clone()
        compiled()
        plain.step()
        for p, q in zip(params, others, strict=True):
            # Factors round to 16 bit on a GPU, in another order when compiled.
            assert torch.allclose(p, q, rtol=0, atol=0.1 * (i + 1) * 3.0 * 1e-2)


@pytest.mark.parametrize("make", [ClippedScion, Scion], ids=lambda make: make.__name__)
def test_bfloat16_training_learns(make, device):
    """A network in bfloat16 under autocast halves the loss of a fixed batch."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(32, 256), nn.GELU(), nn.Linear(256, 256), nn.GELU())
    model.append(nn.Linear(256, 10))
    model.to(device)
    options = {"rho": 1.0} if make is ClippedScion else {}
    optimizer = make(param_groups(model), lr=2**-7, **options)
    x, y = torch.randn(256, 32, device=device), torch.randint(10, (256,), device=device)
    losses = []
    for _ in range(60):
        with torch.autocast(device.type, torch.bfloat16):
            value = nn.functional.cross_entropy(model(x), y)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        losses.append(float(value))
    assert losses[-1] < losses[0] / 2, losses[::10]
    assert int(optimizer.metrics()["skipped"]) == 0


def test_a_mixed_network_learns(device):
    model = build(torch.float32).to(device)
    optimizer = LAYERED[2](LAYERED[2].groups(model, Auto()), 0.02)
    first = last = 0.0
    for step in range(60):
        optimizer.zero_grad()
        tokens_loss = loss_on(model, step, device)
        tokens_loss.backward()
        optimizer.step()
        first = first or float(tokens_loss)
        last = float(tokens_loss)
    assert last < first


def loss_on(model, step, device):
    """The test network's loss, its batch on a device."""
    generator = torch.Generator().manual_seed(1000 + step % 2)
    tokens = torch.randint(0, 11, (16, 7), generator=generator)
    target = (tokens.sum(1) + tokens[:, 0]) % 5
    return nn.functional.cross_entropy(model(tokens.to(device)), target.to(device))


@pytest.fixture
def one_rank(device, tmp_path):
    """A process group of this process alone, on a GPU with NCCL."""
    if device.type == "cuda":
        torch.cuda.set_device(0)
    backend = "nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@needs.fsdp_on_cpu
@pytest.mark.usefixtures("one_rank")
@pytest.mark.parametrize("way", ["stages", "split", "fsdp"])
@pytest.mark.parametrize(
    "options", [{}, {"constrained": True, "variant": 1}, {"state_dtype": torch.int8}], ids=str
)
def test_the_collectives_of_one_rank_change_nothing(way, options, device):
    """The reductions, the exchange of objects and the shards, on the device."""
    here, there = (shrink(build(torch.float32)).to(device) for _ in range(2))
    polar = PolarExpress(20, 1e-6)
    theirs = ClippedScion(param_groups(there, polar=polar), average=0.1, **options)
    if way == "fsdp":
        fully_shard(here)
    more = {"stages": {"stages": dist.group.WORLD}, "split": {"split": True}}.get(way, {})
    ours = ClippedScion(param_groups(here, polar=polar), average=0.1, **options, **more)
    for step in range(5):
        gradients(there, step)
        for p, q in zip(here.parameters(), there.parameters(), strict=True):
            sharded = isinstance(p, DTensor)
            p.grad = DTensor.from_local(q.grad.clone(), p.device_mesh) if sharded else q.grad
        ours.step()
        theirs.step()
    # Small layers perhaps in another batch: 20 products in float32. In few bits an entry of the
    # minimiser, times the largest radius, can be rounded to its neighbour in each of five steps.
    atol = 5 * 2**-6 * 32 * 2**-8 if "state_dtype" in options else 1e-5
    for p, q in zip(here.parameters(), there.parameters(), strict=True):
        momenta = whole(ours.state[p]["momentum"]), theirs.state[q]["momentum"]
        assert torch.equal(*momenta)
        assert torch.allclose(whole(p), q, rtol=0, atol=atol)


def whole(x):
    return x.full_tensor() if isinstance(x, DTensor) else x
