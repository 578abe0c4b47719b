"""Checkpoints of one format of the momentum, loaded into another, under FSDP2 on two ranks."""

import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)

from normball import ClippedScion
from normball.optim import packed
from tests import needs
from tests.distributed import model as zoo
from tests.distributed.launch import launch

pytestmark = needs.fsdp_on_cpu

FORMATS = (None, torch.bfloat16, torch.int8)
LAYOUTS = (False, True)  # of the state: nested, and flat as torchtitan saves it
BEFORE, AFTER = 3, 3


class Run:
    """A model whose optimizer has a format of its momentum."""

    def __init__(self, dtype):
        self.model, self.share = zoo.fsdp(zoo.network(torch.float32))
        self.optimizer = ClippedScion(
            zoo.groups(self.model), 0.01, alpha=0.3, rho="auto", average=0.3, state_dtype=dtype
        )

    def train(self, steps):
        for step in steps:
            self.optimizer.zero_grad()
            zoo.loss(self.model, step, self.share).backward()
            self.optimizer.step()
        return self

    def state(self, flat):
        options = StateDictOptions(flatten_optimizer_state_dict=flat)
        return get_optimizer_state_dict(self.model, self.optimizer, options=options)

    def load(self, state, flat):
        options = StateDictOptions(flatten_optimizer_state_dict=flat)
        set_optimizer_state_dict(self.model, self.optimizer, state, options=options)
        return self

    def read(self, folder, flat):
        state = self.state(flat)
        dcp.load(state, checkpoint_id=folder)
        return self.load(state, flat)

    def momenta(self):
        return zoo.whole(
            (name, self.optimizer.state[p]["momentum"]) for name, p in self.model.named_parameters()
        )


def converted(folder):
    """Return momenta saved in every format and loaded into every other, and how runs go on."""
    saved, loaded, finished, unbroken = {}, {}, {}, {}
    for source in FORMATS:
        begun = Run(source).train(range(BEFORE))
        weights = {name: p.detach().clone() for name, p in begun.model.named_parameters()}
        saved[source] = begun.momenta()
        for flat in LAYOUTS:
            place = folder / f"{source}-{flat}"
            dcp.save(begun.state(flat), checkpoint_id=place)
            for target in FORMATS:
                ways = {"memory": Run(target).load(begun.state(flat), flat)}
                if source == target or torch.int8 not in (source, target):
                    ways["disk"] = Run(target).read(place, flat)
                else:  # the packed tensor has another shape
                    if flat:
                        with pytest.raises(CheckpointException, match=r"(?i)size mismatch"):
                            Run(target).read(place, flat)
                    old = Run(source).read(place, flat)
                    ways["disk"] = Run(target)
                    ways["disk"].optimizer.load_state_dict(old.optimizer.state_dict())
                for way, run in ways.items():
                    key = source, target, flat, way
                    loaded[key] = run.momenta()
                    for name, p in run.model.named_parameters():
                        p.detach().copy_(weights[name])
                    if source == target or flat:
                        run.train(range(BEFORE, BEFORE + AFTER))
                        finished[key] = zoo.whole(run.model.named_parameters())
        begun.train(range(BEFORE, BEFORE + AFTER))
        unbroken[source] = zoo.whole(begun.model.named_parameters())
    return saved, loaded, finished, unbroken, [asked(False), asked(True)]


def asked(before):
    """Train in 16 bits, with or without asking for the state before the first step."""
    run = Run(torch.bfloat16)
    if before:
        run.state(True)
    return run.train(range(BEFORE)).momenta()


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("formats")
    return launch(converted, 2, folder / "run", folder)


def values(momentum, shape):
    """Return a momentum of any format in float32, of its parameter's shape; that is exact."""
    if momentum.dtype != torch.int8:
        return momentum.float()
    return packed.unpack(momentum, shape[1:].numel(), torch.float32).view(shape)


def units(momentum, shape):
    """Return the distance between neighbouring numbers of the format, at each entry."""
    if momentum.dtype == torch.bfloat16:
        return momentum.float().abs() * 2**-7
    n = shape[1:].numel()
    exponents = momentum[:, n:].float().repeat_interleave(packed.BLOCK, 1)[:, :n]
    return torch.exp2(exponents).view(shape)


def test_a_momentum_is_the_nearest_of_the_new_format(results):
    shapes = {name: p.shape for name, p in zoo.network().named_parameters()}
    for saved, loaded, *_ in results:
        assert len(loaded) == 2 * len(LAYOUTS) * len(FORMATS) ** 2
        for (source, target, *_), found in loaded.items():
            for name, momentum in found.items():
                shape = shapes[name]
                packs = target == torch.int8 and len(shape) > 1
                kept = target if target is not None and (packs or target != torch.int8) else None
                assert momentum.dtype == (kept or torch.float32)
                before, after = values(saved[source][name], shape), values(momentum, shape)
                if source == target or kept is None:
                    assert torch.equal(before, after)
                else:
                    half = 0.5 * units(momentum, shape)
                    assert ((before - after).abs() <= half * (1 + 2**-16) + 1e-30).all()


def test_a_run_in_its_own_format_goes_on_bit_for_bit(results):
    """So the count of roundings is saved and loaded too."""
    for _, _, finished, unbroken, _ in results:
        for (source, target, *_), weights in finished.items():
            if source == target:
                assert all(torch.equal(weights[n], x) for n, x in unbroken[source].items())


def test_a_run_in_another_format_goes_on_the_same_from_memory_and_from_disk(results):
    for _, _, finished, *_ in results:
        for (*formats, flat, way), weights in finished.items():
            if way == "disk":
                other = finished[(*formats, flat, "memory")]
                assert all(torch.equal(other[name], x) for name, x in weights.items())


def test_asking_for_the_state_draws_no_random_bits(results):
    for *_, (plain, after) in results:
        assert all(torch.equal(plain[name], x) for name, x in after.items())
