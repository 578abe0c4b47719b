"""Saved on some ranks, resumed on others; what is left behind when a save is killed."""

import importlib.util
import os
import signal
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
import torch.multiprocessing as mp
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    get_state_dict,
    set_optimizer_state_dict,
    set_state_dict,
)

from normball import ClippedScion
from normball.norms import Spectral
from tests import THREADS, needs
from tests.distributed import model as zoo
from tests.distributed.launch import launch

pytestmark = needs.fsdp_on_cpu

EXAMPLE = Path(__file__).parent.parent.parent / "examples/fsdp2_gpt.py"
# Another mesh for every number of ranks; the sums over ranks are taken in another order.
WAYS = {1: "fsdp", 2: "tensor_parallel", 3: "fsdp", 4: "hybrid"}
BEFORE, AFTER = 3, 4
PLAIN = {"rho": 12.0}
RECIPE = {"rho": 12.0, "nesterov": True, "average": 0.3}


def start(options=PLAIN):
    model, share = getattr(zoo, WAYS[dist.get_world_size()])(zoo.network())
    return model, share, ClippedScion(zoo.groups(model), 0.01, alpha=0.3, **options)


def advance(model, optimizer, steps, share):
    for step in steps:
        optimizer.zero_grad()
        zoo.loss(model, step, share).backward()
        optimizer.step()


def save(model, optimizer, folder):
    state = dict(zip(("model", "optimizer"), get_state_dict(model, optimizer), strict=True))
    dcp.save(state, checkpoint_id=folder)


def load(model, optimizer, folder):
    # This makes a step with zero gradients, which must leave no trace.
    state = dict(zip(("model", "optimizer"), get_state_dict(model, optimizer), strict=True))
    dcp.load(state, checkpoint_id=folder)
    set_state_dict(
        model, optimizer, model_state_dict=state["model"], optim_state_dict=state["optimizer"]
    )


def save_run(folder, options, in_eval):
    model, share, optimizer = start(options)
    advance(model, optimizer, range(BEFORE), share)
    if in_eval:
        optimizer.eval()
    save(model, optimizer, folder / str(dist.get_world_size()))


def resume_runs(folder, sources, options):
    found = {}
    for source in sources:
        model, share, optimizer = start(options)
        load(model, optimizer, folder / str(source))
        found[source] = finish(model, optimizer, share)
    return found


def finish(model, optimizer, share):
    """Return what a loaded model holds, and goes on to, fast and averaged."""
    loaded = zoo.whole(model.named_parameters())
    optimizer.train()
    advance(model, optimizer, range(BEFORE, BEFORE + AFTER), share)
    fast = zoo.whole(model.named_parameters())
    optimizer.eval()
    return loaded, fast, zoo.whole(model.named_parameters())


def assert_unbroken(weights, steps=BEFORE + AFTER, options=PLAIN, averaged=False):
    model = zoo.network()
    optimizer = ClippedScion(zoo.groups(model), 0.01, alpha=0.3, **options)
    advance(model, optimizer, range(steps), slice(None))
    if averaged:
        optimizer.eval()
    for name, p in model.named_parameters():
        error = float((weights[name] - p.detach()).abs().max())
        assert error <= 1e-10, (name, error)


def assert_finished(found, options, in_eval):
    loaded, fast, averaged = found
    assert_unbroken(loaded, BEFORE, options, averaged=in_eval)
    assert_unbroken(fast, options=options)
    assert_unbroken(averaged, options=options, averaged=True)


CASES = [
    (PLAIN, False, tuple(WAYS)),
    ({"rho": "auto"}, False, (1, 2, 3)),
    (RECIPE, False, (1, 2, 3)),
    (RECIPE, True, (1, 2, 4)),
]


@pytest.mark.slow
@pytest.mark.parametrize(("options", "in_eval", "numbers"), CASES)
def test_saved_on_any_number_of_ranks_and_resumed_on_any(options, in_eval, numbers, tmp_path):
    saved = tmp_path / "saved"
    for ranks in numbers:
        launch(save_run, ranks, tmp_path / f"save-{ranks}", saved, options, in_eval)
    for ranks in numbers:
        folder = tmp_path / f"resume-{ranks}"
        for found in launch(resume_runs, ranks, folder, saved, list(numbers), options):
            for one in found.values():
                assert_finished(one, options, in_eval)


def traces():
    """Ask for the state before any step; return what that left, and where training then goes."""
    results = []
    for options in (PLAIN, PLAIN | {"constrained": True}, RECIPE):
        model, _ = zoo.fsdp(zoo.network())
        with torch.no_grad():
            for p in model.parameters():
                p.mul_(30)  # outside of every ball
        before = zoo.whole(model.named_parameters())
        optimizer = ClippedScion(zoo.groups(model), 0.01, alpha=0.3, **options)
        get_optimizer_state_dict(model, optimizer)
        after = zoo.whole(model.named_parameters())
        largest = max(
            float(s["momentum"].full_tensor().abs().max()) for s in optimizer.state.values()
        )
        groups = optimizer.state_dict()["param_groups"]
        lrs = {group["lr"] + group.get("average_steps", 0) for group in groups}
        seen = {name: float(x.sum()) for name, x in optimizer.metrics().items()}
        results.append((before, after, largest, lrs, seen))
    model, share = zoo.fsdp(zoo.network())
    optimizer = ClippedScion(zoo.groups(model), 0.01, rho=12.0, alpha=0.3)
    get_optimizer_state_dict(model, optimizer)
    advance(model, optimizer, range(BEFORE), share)
    return results, zoo.whole(model.named_parameters())


def flattened():
    """Save and load in the form of torchtitan's containers; return the momenta of both."""
    options = StateDictOptions(flatten_optimizer_state_dict=True)
    momenta = []
    state = None
    for _ in range(2):
        model, share = zoo.fsdp(zoo.network())
        optimizer = ClippedScion(zoo.groups(model), 0.01, rho=12.0, alpha=0.3)
        if state is None:
            advance(model, optimizer, range(BEFORE), share)
            state = get_optimizer_state_dict(model, optimizer, options=options)
        else:
            set_optimizer_state_dict(model, optimizer, state, options=options)
        momenta.append(
            {n: optimizer.state[p]["momentum"].to_local() for n, p in model.named_parameters()}
        )
    return momenta


def refusals():
    """Load a state into optimizers that do not fit; return messages and what they then hold."""
    model, share, optimizer = start()
    advance(model, optimizer, range(BEFORE), share)
    saved = optimizer.state_dict()
    plain = zoo.groups(zoo.network())
    other_norm = zoo.groups(model)
    other_norm[2]["norm"] = Spectral("plain")
    shapes = [{**g, "params": [torch.nn.Parameter(torch.ones(2, 2))]} for g in plain[:1]] + plain[
        1:
    ]
    found = []
    for groups in (other_norm, shapes):
        other = ClippedScion([{**g} for g in groups], 0.01, rho=12.0, alpha=0.3)
        try:
            other.load_state_dict(saved)
        except ValueError as error:
            found.append((str(error), len(other.state)))
    return found


def killed(rank, ranks, folder):
    """Save once as a whole, in eval mode; then die in a second save, before its metadata."""
    torch.set_num_threads(THREADS)
    store = f"file://{folder}/store"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=ranks)
    model, share, optimizer = start(RECIPE)
    advance(model, optimizer, range(BEFORE), share)
    optimizer.eval()
    save(model, optimizer, folder / f"step-{BEFORE}")
    optimizer.train()
    advance(model, optimizer, range(BEFORE, BEFORE + 1), share)

    class Dying(dcp.FileSystemWriter):
        def finish(self, metadata, results):
            os.kill(os.getpid(), signal.SIGKILL)

    state = dict(zip(("model", "optimizer"), get_state_dict(model, optimizer), strict=True))
    dcp.save(state, storage_writer=Dying(folder / f"step-{BEFORE + 1}"))


def resume_last(folder):
    model, share, optimizer = start(RECIPE)
    load(model, optimizer, folder)
    return finish(model, optimizer, share)


def last_whole(folder):
    spec = importlib.util.spec_from_file_location("fsdp2_gpt", EXAMPLE)
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    return example.last_whole(folder)


def two_ranks(folder):
    return {
        "resumed": resume_last(folder),
        "traces": traces(),
        "refusals": refusals(),
        "flattened": flattened(),
    }


@pytest.fixture(scope="module")
def after_a_kill(tmp_path_factory):
    folder = tmp_path_factory.mktemp("killed")
    with pytest.raises(mp.ProcessExitedException, match="SIGKILL"):
        mp.spawn(killed, (3, folder), nprocs=3)
    whole = last_whole(folder)
    results = launch(two_ranks, 2, folder / "resume", whole)
    return folder, whole, results


def test_a_killed_save_resumes_from_the_last_whole_one(after_a_kill):
    folder, whole, results = after_a_kill
    assert list((folder / f"step-{BEFORE + 1}").glob("*.distcp")), "it died in the middle"
    assert whole == folder / f"step-{BEFORE}"
    for found in results:
        assert_finished(found["resumed"], RECIPE, in_eval=True)


def test_asking_for_the_state_leaves_no_trace(after_a_kill):
    for found in after_a_kill[2]:
        cases, weights = found["traces"]
        for before, after, largest, lrs, seen in cases:
            assert all(torch.equal(after[name], x) for name, x in before.items())
            assert largest == 0
            assert lrs == {0.01}
            assert not any(seen.values())
        assert_unbroken(weights, BEFORE)


def test_another_norm_or_shape_is_refused_by_name(after_a_kill):
    for found in after_a_kill[2]:
        (norm, left), (shape, right) = found["refusals"]
        assert "SpectralConv" in norm
        assert "Spectral(scale='plain'" in norm
        assert "momentum of" in shape
        assert "(2, 2)" in shape
        assert left == right == 0


def test_a_flattened_state_loads(after_a_kill):
    for found in after_a_kill[2]:
        saved, loaded = found["flattened"]
        assert any(bool(m.any()) for m in saved.values())
        assert all(torch.equal(loaded[name], m) for name, m in saved.items())
