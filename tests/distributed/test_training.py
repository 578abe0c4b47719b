"""What training loops do around a step, on two ranks, against one process."""

import warnings

import pytest
import torch
import torch.distributed as dist
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
from torch.distributed.fsdp import (
    CPUOffloadPolicy,
    FullyShardedDataParallel,
    MixedPrecisionPolicy,
    fully_shard,
)
from torch.distributed.tensor import DTensor

from normball import ClippedScion
from tests import needs
from tests.distributed import model as zoo
from tests.distributed.launch import launch

pytestmark = needs.fsdp_on_cpu

RANKS, STEPS = 2, 4
ALPHA = 0.25  # of gradients in bfloat16, the momentum is then exact in float32
WAYS = ("ddp", "fsdp")


def optimizer_of(model, alpha=0.3, **options):
    return ClippedScion(zoo.groups(model), 0.01, rho=12.0, alpha=alpha, **options)


def momenta(model, optimizer):
    return zoo.whole((name, optimizer.state[p]["momentum"]) for name, p in model.named_parameters())


def plain(model, share=slice(None)):
    optimizer = optimizer_of(model)
    for step in range(STEPS):
        optimizer.zero_grad()
        zoo.loss(model, step, share).backward()
        optimizer.step()
    return zoo.whole(model.named_parameters())


def accumulated(way):
    """Two halves of a batch, whose gradients are exchanged only after the second."""
    model, share = getattr(zoo, way)(zoo.network())
    optimizer = optimizer_of(model)
    for step in range(STEPS):
        optimizer.zero_grad()
        halves = slice(share.start, 6, share.step), slice(6 + share.start, None, share.step)
        if way == "ddp":
            with model.no_sync():
                (zoo.loss(model, step, halves[0]) / 2).backward()
        else:
            model.set_requires_gradient_sync(False)
            (zoo.loss(model, step, halves[0]) / 2).backward()
            model.set_requires_gradient_sync(True)
        (zoo.loss(model, step, halves[1]) / 2).backward()
        optimizer.step()
    return zoo.whole(model.named_parameters())


def overflowed(way):
    """One step, then one whose gradients overflow on the last rank; what changed in the second."""
    model, share = getattr(zoo, way)(zoo.network(torch.float32))
    optimizer = optimizer_of(model)
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    seen = []
    for step in range(3):
        optimizer.zero_grad()
        scaler.scale(zoo.loss(model, step, share)).backward()
        if step == 1 and dist.get_rank() == RANKS - 1:
            gradient = next(p.grad for p in model.parameters() if p.grad is not None)
            part = gradient.to_local() if isinstance(gradient, DTensor) else gradient
            part.view(-1)[0] = float("inf")
        if way == "ddp" and step == 1:  # as its own reduction would have spread it
            for p in model.parameters():
                dist.all_reduce(p.grad)
        scaler.step(optimizer)
        scaler.update()
        seen.append((zoo.whole(model.named_parameters()), momenta(model, optimizer)))
    return seen, scaler.get_scale()


def sixteen_bits(way):
    """The weights before and after every step, with the gradients that it was given."""
    model, share = getattr(zoo, way)(zoo.network(torch.bfloat16))
    optimizer = optimizer_of(model, alpha=ALPHA)
    weights, gradients = [zoo.whole(model.named_parameters())], []
    for step in range(STEPS):
        optimizer.zero_grad()
        zoo.loss(model, step, share).backward()
        gradients.append(zoo.whole((name, p.grad) for name, p in model.named_parameters()))
        optimizer.step()
        weights.append(zoo.whole(model.named_parameters()))
    types = {optimizer.state[p]["momentum"].dtype for p in model.parameters()}
    return weights, gradients, momenta(model, optimizer), types


def mixed_precision():
    """FSDP2 computes in bfloat16; parameters, state and gradients stay in float32."""
    model = zoo.network(torch.float32)
    policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    fully_shard(model, mp_policy=policy)
    optimizer = optimizer_of(model)
    losses = []
    for _ in range(30):
        optimizer.zero_grad()
        loss = zoo.loss(model, 0, slice(dist.get_rank(), None, RANKS))
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses, {p.dtype for p in model.parameters()}


def checkpointed(way):
    """The MLP computes its activations again in the backward pass."""
    model = zoo.network()
    model.mlp = checkpoint_wrapper(model.mlp)
    model, share = getattr(zoo, way)(model)
    return plain(model, share)


def offloaded():
    """Parameters and gradients rest on the CPU; without an accelerator no memory can be pinned."""
    policy = CPUOffloadPolicy(pin_memory=False)
    model, share = zoo.fsdp(zoo.network(), offload_policy=policy)
    weights = plain(model, share)
    assert all(p.device.type == p.grad.device.type == "cpu" for p in model.parameters())
    return weights


def evaluated(when):
    """Look at the averaged weights between the steps; return their losses, and the last weights.

    `when` says how parameters that an evaluation gathered are let go of, or that none is made.
    """
    policies = {"reshard_after_forward": True} if when == "by torch" else {}
    model, share = zoo.fsdp(zoo.network(), **policies)
    optimizer = optimizer_of(model, nesterov=True, average=1.0)
    seen = []
    for step in range(STEPS):
        optimizer.zero_grad()
        zoo.loss(model, step, share).backward()
        optimizer.step()
        if when != "none":
            optimizer.eval()
            with torch.no_grad():
                seen.append(float(zoo.loss(model, 0)))
            if when == "by hand":
                model.reshard()
            optimizer.train()
    return seen, zoo.whole(model.named_parameters())


def flattened(use_orig_params):
    """What FSDP1's own wrapper makes of a layer, offered to the optimizer."""
    layer = torch.nn.Linear(4, 4)
    cpu = torch.device("cpu")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # FSDP1 is on its way out
        wrapped = FullyShardedDataParallel(layer, use_orig_params=use_orig_params, device_id=cpu)
    try:
        ClippedScion(wrapped.parameters(), 0.01, rho=1.0)
    except TypeError as error:
        return str(error)
    return "accepted"


def everything():
    return {
        "flattened": [flattened(use_orig_params) for use_orig_params in (False, True)],
        "offloaded": offloaded(),
        "accumulated": {way: accumulated(way) for way in WAYS},
        "overflowed": {way: overflowed(way) for way in WAYS},
        "sixteen": {way: sixteen_bits(way) for way in WAYS},
        "mixed": mixed_precision(),
        "checkpointed": {way: checkpointed(way) for way in WAYS},
        "evaluated": {when: evaluated(when) for when in ("none", "never", "by hand", "by torch")},
    }


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    return launch(everything, RANKS, tmp_path_factory.mktemp("training") / "run")


def assert_same(found, wanted, tolerance):
    assert found.keys() == wanted.keys()
    for name, x in wanted.items():
        error = float((found[name].double() - x.double()).abs().max())
        assert error <= tolerance, (name, error)


@pytest.mark.parametrize("case", ["accumulated", "checkpointed"])
@pytest.mark.parametrize("way", WAYS)
def test_gradient_accumulation_and_activation_checkpointing(results, way, case):
    alone = plain(zoo.network())
    for rank in results:
        assert_same(rank[case][way], alone, 1e-10)


def test_flat_shards_are_refused_with_the_way_out(results):
    for rank in results:
        for message in rank["flattened"]:
            assert "flat shard" in message
            assert "fully_shard" in message


def test_cpu_offload(results):
    alone = plain(zoo.network())
    for rank in results:
        assert_same(rank["offloaded"], alone, 1e-10)


@pytest.mark.parametrize("way", WAYS)
def test_an_overflow_on_one_rank_changes_nothing_anywhere(results, way):
    for rank in results:
        (first, second, third), scale = rank["overflowed"][way]
        for before, after, later in zip(first, second, third, strict=True):
            for name, x in before.items():
                assert torch.equal(after[name], x)
                assert not torch.equal(later[name], x)
        assert scale == 4.0


def condition(momentum):
    """The largest ratio of singular values among the matrices whose minimiser is a polar factor."""
    matrices = momentum["conv.weight"].flatten(1), momentum["mlp.up.weight"], momentum["experts"]
    sigma = [
        torch.linalg.svdvals(m.double()) for m in (*matrices, *momentum["fused.weight"].chunk(2))
    ]
    return max(float((s[..., 0] / s[..., -1]).max()) for s in sigma)


@pytest.mark.parametrize("way", WAYS)
def test_sixteen_bit_parameters_have_a_state_in_32(results, way):
    """Every step is that of one process in float64 on the same gradients, rounded once."""
    weights, gradients, momentum, types = results[0]["sixteen"][way]
    assert types == {torch.float32}
    assert any(bool((m != m.bfloat16()).any()) for m in momentum.values())
    for here, there in zip(weights, results[1]["sixteen"][way][0], strict=True):
        assert_same(there, here, 0)
    exact = zoo.network()
    optimizer = optimizer_of(exact, alpha=ALPHA)
    for before, gradient, after in zip(weights, gradients, weights[1:], strict=False):
        for name, p in exact.named_parameters():
            p.data.copy_(before[name])
            p.grad = gradient[name].double()
        optimizer.step()
        # A polar factor turns by up to 2 |E| / sigma_min, E the rounding of its matrix in float32.
        turned = 20 * torch.finfo(torch.float32).eps * condition(momenta(exact, optimizer))
        for name, p in exact.named_parameters():
            assert after[name].dtype == torch.bfloat16
            step = float((p - before[name]).detach().norm())
            rounded = torch.finfo(torch.bfloat16).eps / 2 * p.abs()
            assert bool(((p - after[name]).abs() <= rounded + turned * step).all()), name
    assert_same(momentum, momenta(exact, optimizer), 1e-6)


def test_mixed_precision_trains(results):
    losses, types = results[0]["mixed"]
    assert types == {torch.float32}
    assert losses[-1] < 0.7 * losses[0]


def test_an_evaluation_of_the_average_lets_go_of_what_it_gathered(results):
    """Else FSDP2 keeps the root's averaged parameters, and the next forward trains at them."""
    alone = zoo.network()
    optimizer = optimizer_of(alone, nesterov=True, average=1.0)
    wanted = []
    for step in range(STEPS):
        optimizer.zero_grad()
        zoo.loss(alone, step).backward()
        optimizer.step()
        optimizer.eval()
        wanted.append(float(zoo.loss(alone, 0).detach()))
        optimizer.train()
    weights = zoo.whole(alone.named_parameters())
    for rank in results:
        for when in ("none", "by hand", "by torch"):
            losses, found = rank["evaluated"][when]
            assert losses == pytest.approx([] if when == "none" else wanted, abs=1e-10)
            assert_same(found, weights, 1e-10)
        _, stale = rank["evaluated"]["never"]
        # Where torch lets go by itself, docs/distributed.md need not ask for it.
        assert any(float((stale[name] - x).abs().max()) > 1e-4 for name, x in weights.items())
