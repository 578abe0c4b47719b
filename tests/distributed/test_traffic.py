"""What a step sends, counted call by call and byte by byte, against docs/distributed.md."""

from unittest import mock

import pytest
import torch.distributed as dist
from torch.distributed.tensor.debug import CommDebugMode

from normball import ClippedScion
from tests.distributed import model as zoo
from tests.distributed.launch import launch

RULES = {
    "clipped": {"rho": 12.0},
    "short-step-1": {"rho": 8.0, "constrained": True, "variant": 1},
    "short-step-2": {"rho": 8.0, "constrained": True},
}
# Of the model: layers of lines that shards of rows cut (RMS), those that they do not cut (rows and
# entries), stacks of experts, and matrices that need an owner.
VECTORS, PIECES, OWNED = 5, 4, 3


class Counter:
    """Stands in for the collectives of torch.distributed and notes what this rank puts in."""

    def __init__(self):
        self.calls = {"all_reduce": [], "all_to_all_single": [], "broadcast": []}
        self.real = {name: getattr(dist, name) for name in self.calls}

    def __enter__(self):
        self.patches = [mock.patch.object(dist, name, self.noting(name)) for name in self.calls]
        for patch in self.patches:
            patch.start()
        return self

    def __exit__(self, *_):
        for patch in self.patches:
            patch.stop()

    def noting(self, name):
        def call(tensor, *args, **kwargs):
            sent = args[0] if name == "all_to_all_single" else tensor
            self.calls[name].append(sent.numel() * sent.element_size())
            return self.real[name](tensor, *args, **kwargs)

        return call


def traffic(way, rule):
    model, share = zoo.fsdp(zoo.network()) if way == "fsdp" else zoo.ddp(zoo.network())
    optimizer = ClippedScion(
        zoo.groups(model), 0.01, alpha=0.3, split=way == "split", **RULES[rule]
    )
    for step in range(2):  # the first step of a constrained one reads norms once
        optimizer.zero_grad()
        zoo.loss(model, step, share).backward()
        with Counter() as counter, CommDebugMode() as debug:
            optimizer.step()
    calls = {name: len(sizes) for name, sizes in counter.calls.items()}
    assert debug.get_total_counts() == sum(calls.values()), "nothing else is sent"
    return {name: (len(sizes), sum(sizes)) for name, sizes in counter.calls.items()}


def everything():
    found = {("fsdp", rule): traffic("fsdp", rule) for rule in RULES}
    return found | {(way, "clipped"): traffic(way, "clipped") for way in ("ddp", "split")}


@pytest.fixture(scope="module")
def counted(tmp_path_factory):
    return launch(everything, 2, tmp_path_factory.mktemp("traffic") / "run")


def owned_entries(model):
    named = dict(model.named_parameters())
    return sum(named[name].numel() for name in ("conv.weight", "mlp.up.weight", "fused.weight"))


@pytest.mark.parametrize("rule", RULES)
def test_sharded(counted, rule):
    entries = owned_entries(zoo.network())
    per_piece = {"clipped": 1, "short-step-2": 2, "short-step-1": 2}[rule]
    per_line = {"clipped": 1, "short-step-2": 2, "short-step-1": 3}[rule]
    scalars = (PIECES + OWNED) * per_piece + VECTORS * per_line
    slots = 2 if rule == "short-step-1" else 0  # one for each rank
    for rank in counted:
        found = rank["fsdp", rule]
        # The flag, 4 bytes, and the numbers of a step, 8 each.
        assert found["all_reduce"] == (2, 4 + 8 * (scalars + slots))
        # The matrices are small: one round, there and back.
        assert found["all_to_all_single"][0] == 2
        assert found["broadcast"] == (0, 0)
    # Every entry goes to its owner once (with x, for variant 1), and comes back once.
    sent = sum(rank["fsdp", rule]["all_to_all_single"][1] for rank in counted)
    assert sent == 8 * entries * (3 if rule == "short-step-1" else 2)


def test_replicated(counted):
    for rank in counted:
        assert all(calls == (0, 0) for calls in rank["ddp", "clipped"].values())


def test_replicated_and_divided(counted):
    entries = owned_entries(zoo.network()) + zoo.network().experts.numel()
    for rank in counted:
        found = rank["split", "clipped"]
        # Four matrices for two owners, in one bucket each.
        assert found["broadcast"] == (2, 8 * entries)
        assert found["all_reduce"] == (1, 8 * 4)
        assert found["all_to_all_single"] == (0, 0)
