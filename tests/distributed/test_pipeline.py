"""Ranks with parameters of their own train as one process does."""

import copy
import re
from dataclasses import replace

import pytest
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor

from normball import ClippedScion, Scion
from normball.norms import RMS, Euclidean, Spectral
from normball.parallel import Stages
from normball.parallel.groups import holders_of
from normball.polar import SVD, Eigh
from tests import needs
from tests.distributed import pipeline as zoo
from tests.distributed.launch import launch
from tests.distributed.test_agreement import OF_GRAM, TOLERANCE
from tests.distributed.test_traffic import Counter

RULES = {
    "clipped": {"rho": 60.0},
    "short-step-1": {"rho": 60.0, "constrained": True, "variant": 1},
    "short-step-2": {"rho": 60.0, "constrained": True},
    "measured": {"rho": "auto"},
    "measured-1": {"rho": "auto", "constrained": True, "variant": 1},
    "recipe": {"rho": 60.0, "average": 0.3},
}


# Ranks of a stage compute matrices together, so their factors are those of a Gram matrix.
TOGETHER = {"rho": 60.0, "average": 0.3, "ranks_per_matrix": 2}


def optimizer_of(groups, rule, **more):
    if rule == "together":
        groups = [
            {**group, "norm": replace(group["norm"], polar=Eigh())}
            if isinstance(group["norm"], Spectral)
            else group
            for group in groups
        ]
        return ClippedScion(groups, 0.02, alpha=0.3, **TOGETHER, **more)
    return ClippedScion(groups, 0.02, alpha=0.3, **RULES[rule], **more)


def figures(optimizer, rule):
    metrics = optimizer.metrics()
    size = metrics["gap" if "gap" in metrics else "dual_norm"]
    return torch.stack([size, metrics["step_factor"], metrics["skipped"]])


def alone(rule, steps, poisoned=()):
    model = zoo.whole()
    optimizer = optimizer_of(zoo.plan_of(model), rule)
    seen = []
    for step in range(steps):
        optimizer.zero_grad()
        x, target = zoo.batch(step)
        zoo.loss_of(model(x), target).backward()
        if step in poisoned:
            model.layers["3"].up.weight.grad[0, 0] = torch.nan
        optimizer.step()
        seen.append(figures(optimizer, rule))
    optimizer.eval()
    return dict(model.named_parameters()), torch.stack(seen)


def staged(schedule, inner, rule, steps, poisoned=()):
    pipe = zoo.Pipeline(schedule, inner)
    optimizer = optimizer_of(pipe.plan(), rule, stages=pipe.mesh["pp"])
    seen = []
    for step in range(steps):
        optimizer.zero_grad()
        pipe.backward(step)
        for name, p in pipe.named_parameters():
            if step in poisoned and name == "layers.3.up.weight":
                grad = p.grad.to_local() if isinstance(p.grad, DTensor) else p.grad
                grad[:1, :1] = torch.nan
        optimizer.step()
        seen.append(figures(optimizer, rule))
    optimizer.eval()
    return zoo.gathered(pipe.named_parameters()), torch.stack(seen)


def on_each_rank(cases):
    return [staged(*case) for case in cases]


def compare(cases, every_rank, tolerance=TOLERANCE):
    for i, case in enumerate(cases):
        weights, seen = alone(*case[2:])
        assert seen[:, 1].min() < 0.9, "the threshold must matter"
        weights["head.weight"] = weights["table.weight"]
        for results in every_rank:
            found, there = results[i]
            assert {name for name, _ in found} == set(weights)
            assert torch.allclose(there, seen, rtol=10 * tolerance, atol=tolerance), case
            for name, x in found:
                error = float((x - weights[name].detach()).abs().max())
                assert error <= tolerance, (case, name, error)


def cases_of(schedules, inner):
    return [(schedule, inner, rule, 6) for schedule in schedules for rule in RULES] + [
        (schedules[0], inner, "clipped", 6, (2,)),
        (schedules[0], inner, "short-step-2", 6, (2,)),
    ]


@pytest.mark.filterwarnings("ignore:.*outside its ball")
@pytest.mark.parametrize("ranks", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_stages_train_as_one_process(ranks, tmp_path):
    schedules = ["gpipe", "1f1b"] + ["interleaved"] * (ranks == 2)
    cases = cases_of(schedules, "")
    compare(cases, launch(on_each_rank, ranks, tmp_path / "run", cases))


@pytest.mark.slow
@needs.fsdp_on_cpu
@pytest.mark.filterwarnings("ignore:.*outside its ball")
@pytest.mark.parametrize("inner", ["ddp", "fsdp", "tp"])
def test_stages_over_other_parallelism_train_as_one_process(inner, tmp_path):
    cases = [*cases_of(["1f1b"], inner), ("interleaved", inner, "recipe", 6)]
    compare(cases, launch(on_each_rank, 4, tmp_path / "run", cases))


@pytest.mark.slow
@needs.fsdp_on_cpu
def test_ranks_of_a_stage_compute_matrices_together(tmp_path):
    cases = [("1f1b", inner, "together", 6) for inner in ("fsdp", "tp")]
    cases += [("interleaved", "fsdp", "together", 6, (2,))]
    found = launch(on_each_rank, 4, tmp_path / "run", cases)
    compare(cases, found, OF_GRAM[torch.float64])


@pytest.mark.slow
@needs.fsdp_on_cpu
@pytest.mark.filterwarnings("ignore:.*outside its ball")
def test_three_kinds_of_parallelism_on_eight_ranks_train_as_one_process(tmp_path):
    cases = [(name, "fsdp-tp", rule, 6) for rule in RULES for name in ("1f1b", "interleaved")]
    cases += [("gpipe", "hybrid", rule, 6) for rule in RULES]
    cases += [("1f1b", "fsdp-tp", "clipped", 6, (2,)), ("gpipe", "hybrid", "short-step-2", 6, (2,))]
    compare(cases, launch(on_each_rank, 8, tmp_path / "run", cases))


FLAT = StateDictOptions(flatten_optimizer_state_dict=True)
BEFORE, AFTER = 3, 3


def start(rule):
    pipe = zoo.Pipeline("gpipe")
    (model,) = pipe.models.values()
    return pipe, model, optimizer_of(pipe.plan(), rule, stages=pipe.mesh["pp"])


def go_on(pipe, optimizer, steps):
    for step in steps:
        optimizer.zero_grad()
        pipe.backward(step)
        optimizer.step()


def state_of(model, optimizer):
    """Return the state by parameters' names, as torchtitan saves it."""
    return {
        "model": get_model_state_dict(model),
        "optimizer": get_optimizer_state_dict(model, optimizer, options=FLAT),
    }


def save(folder, rule):
    pipe, model, optimizer = start(rule)
    go_on(pipe, optimizer, range(BEFORE))
    dcp.save(state_of(model, optimizer), checkpoint_id=folder / str(dist.get_world_size()))


def resume(folder, rule, sources):
    found = []
    for source in sources:
        pipe, model, optimizer = start(rule)
        state = state_of(model, optimizer)
        dcp.load(state, checkpoint_id=folder / str(source))
        set_model_state_dict(model, state["model"])
        set_optimizer_state_dict(model, optimizer, state["optimizer"], options=FLAT)
        go_on(pipe, optimizer, range(BEFORE, BEFORE + AFTER))
        optimizer.eval()
        found.append(zoo.gathered(pipe.named_parameters()))
    return found


@pytest.mark.slow
@pytest.mark.parametrize("rule", ["measured", "recipe"])
def test_saved_on_some_stages_and_resumed_on_others(rule, tmp_path):
    weights, _ = alone(rule, BEFORE + AFTER)
    weights["head.weight"] = weights["table.weight"]
    numbers = (2, 4)
    for ranks in numbers:
        launch(save, ranks, tmp_path / f"save-{ranks}", tmp_path / "saved", rule)
    for ranks in numbers:
        folder = tmp_path / f"resume-{ranks}"
        for results in launch(resume, ranks, folder, tmp_path / "saved", rule, numbers):
            for found in results:
                for name, x in found:
                    assert float((x - weights[name].detach()).abs().max()) <= TOLERANCE, name


SHAPES = {"dense": (6, 4), "expert 0": (4, 6), "expert 1": (4, 6), "gain": (5,)}
EXPERTS_NORMS = {"dense": Spectral(polar=SVD()), "gain": RMS()}


def tensors(step):
    generator = torch.Generator().manual_seed(step)
    return {
        name: torch.randn(shape, generator=generator, dtype=torch.float64)
        for name, shape in SHAPES.items()
    }


def trained(params, rule, grads, **options):
    """Train on given gradients; return the figures of every step."""
    groups = [
        {"params": [p], "norm": EXPERTS_NORMS.get(name, EXPERTS_NORMS["dense"]), "radius": 2.0}
        for name, p in params.items()
    ]
    optimizer = optimizer_of(groups, rule, **options)
    seen = []
    for step in range(1, 7):
        for name, p in params.items():
            p.grad = grads(step, name)
        optimizer.step()
        seen.append(figures(optimizer, rule))
    return torch.stack(seen)


def experts_elsewhere(rule):
    """A dense matrix and a gain on all ranks; one expert on each half of them, sharded there."""
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("edp", "ep"))
    everywhere = init_device_mesh("cpu", (4,))
    mine = f"expert {mesh.get_local_rank('ep')}"
    meshes = {"dense": everywhere, "gain": everywhere, mine: mesh["edp"]}

    def shard(name, x):
        place = Replicate() if name == "gain" else Shard(0)
        return distribute_tensor(x[name], meshes[name], [place])

    start = tensors(0)
    params = {name: torch.nn.Parameter(shard(name, start)) for name in meshes}
    grads = {step: tensors(step) for step in range(1, 7)}
    seen = trained(params, rule, lambda s, n: shard(n, grads[s]), stages=mesh["ep"])
    return {name: p.full_tensor().detach() for name, p in params.items()}, seen


def on_four_ranks(rules):
    return [experts_elsewhere(rule) for rule in rules]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*outside its ball")
def test_experts_that_only_some_ranks_hold_count_once(tmp_path):
    rules = ["clipped", "measured-1", "short-step-1"]
    ranks = launch(on_four_ranks, 4, tmp_path / "run", rules)
    for i, rule in enumerate(rules):
        params = {name: torch.nn.Parameter(x) for name, x in tensors(0).items()}
        seen = trained(params, rule, lambda step, name: tensors(step)[name])
        for results in ranks:
            found, there = results[i]
            assert len(found) == 3
            assert torch.allclose(there, seen, rtol=10 * TOLERANCE, atol=TOLERANCE)
            for name, x in found.items():
                assert float((x - params[name].detach()).abs().max()) <= TOLERANCE, name


def crossing():
    """Return what a mesh says that goes beyond a stage and has not all ranks."""
    mesh = DeviceMesh("cpu", [0, 1])
    stages = Stages(dist.group.WORLD)
    if dist.get_rank() == 2:
        return None
    x = distribute_tensor(torch.ones(4, 2), mesh, [Shard(0)])
    with stages.inside(), pytest.raises(ValueError, match=r"lies on the ranks \[0, 1\]") as error:
        holders_of(x)
    return str(error.value)


def test_a_mesh_across_stages_must_have_all_ranks(tmp_path):
    first, second, _ = launch(crossing, 3, tmp_path / "run")
    assert "within one stage, here [0]" in first
    assert "within one stage, here [1]" in second


def refusals():
    """Return what every mistake says."""
    p = torch.nn.Parameter(torch.ones(2, 2))
    pairs = dist.new_group([0, 1])
    alone = [dist.new_group([rank]) for rank in range(2)][dist.get_rank()]
    wrong = pairs if dist.get_rank() == 0 else alone
    attempts = {
        "type": lambda: Scion([p], 0.1, stages="pp"),
        "groups": lambda: Scion([p], 0.1, stages=wrong),
        "capturable": lambda: Scion([p], 0.1, stages=pairs, capturable=True),
        "split": lambda: ClippedScion([p], 0.1, stages=pairs, split=True),
        "counted": lambda: Scion([{"params": [p], "counted": False}], 0.1),
        "bool": lambda: Scion([{"params": [p], "counted": 0}], 0.1, stages=pairs),
        "copy": lambda: copy.deepcopy(Scion([p], 0.1, stages=pairs)),
        "overlap": lambda: Scion([p], 0.1).overlap_backward().__enter__(),
    }
    found = {}
    for name, attempt in attempts.items():
        try:
            attempt()
        except (TypeError, ValueError, RuntimeError) as error:
            found[name] = f"{type(error).__name__}: {error}"
    return found


def test_what_stages_cannot_be(tmp_path):
    said = {
        "type": "TypeError: stages='pp' must be a process group",
        "groups": r"ValueError: the ranks have the groups \[\(0, 1\), \(1,\)\]",
        "capturable": "ValueError: stages= exchanges numbers with other ranks",
        "split": "ValueError: stages= exchanges numbers with other ranks",
        "counted": "ValueError: counted=False is for copies that another stage counts",
        "bool": "TypeError: counted=0 must be True or False",
        "copy": "TypeError: an optimizer with stages= cannot be copied",
        "overlap": "RuntimeError: with several ranks a gradient is complete only after",
    }
    for found in launch(refusals, 2, tmp_path / "run"):
        assert set(found) == set(said)
        for name, pattern in said.items():
            assert re.match(pattern, found[name]), found[name]


def one_matrix(alpha):
    """Return a matrix of this stage's own, and the optimizer of it in a pipeline of two stages."""
    p = torch.nn.Parameter(torch.eye(2, dtype=torch.float64))
    group = {"params": [p], "norm": Euclidean(), "radius": 1.0}
    stages = dist.new_group([0, 1])
    return p, ClippedScion([group], 0.1, rho=100.0, alpha=alpha, stages=stages)


def one_stage_rests():
    """Two steps, the second without a gradient on the last rank."""
    p, optimizer = one_matrix(alpha=1.0)
    seen = []
    for step in range(2):
        resting = step == 1 and dist.get_rank() == 1
        p.grad = None if resting else torch.full_like(p, 3.0 + dist.get_rank())
        optimizer.step()
        seen.append(float(optimizer.metrics()["dual_norm"]))
    return p.detach(), seen


def test_a_stage_without_a_gradient_stays_and_the_others_go_on(tmp_path):
    (first, there), (last, seen) = launch(one_stage_rests, 2, tmp_path / "run")
    # Of 2 x 2 equal entries the Euclidean norm is twice the entry.
    assert seen == there == [14.0, 6.0]
    step = 0.1 * 0.5  # of each entry, at full length
    ones = torch.ones(2, 2, dtype=torch.float64)
    assert torch.allclose(first, torch.eye(2).double() - (0.14 + 0.06) * step * ones)
    assert torch.allclose(last, torch.eye(2).double() - 0.14 * step * ones)


def one_gradient_is_zero():
    """After a step, one whose gradient is 0 on the last rank, and one where it is on both."""
    p, optimizer = one_matrix(alpha=0.5)
    moved = []
    for grads in ((1.0, 1.0), (1.0, 0.0), (0.0, 0.0)):
        before = p.detach().clone()
        p.grad = torch.full_like(p, grads[dist.get_rank()])
        optimizer.step()
        moved.append(not torch.equal(p.detach(), before))
    return moved, float(optimizer.metrics()["skipped"])


def test_a_step_without_any_gradient_rests_on_all_stages(tmp_path):
    """Where one stage has a gradient, the momentum of the others moves them."""
    for moved, skipped in launch(one_gradient_is_zero, 2, tmp_path / "run"):
        assert moved == [True, True, False]
        assert skipped == 0


def traffic():
    """Return calls and bytes of the last of four steps, which looks, by rule."""
    found = {}
    for rule in RULES:
        pipe = zoo.Pipeline("gpipe")
        optimizer = optimizer_of(pipe.plan(), rule, stages=pipe.mesh["pp"])
        for step in range(4):
            optimizer.zero_grad()
            pipe.backward(step)
            with Counter() as counter:
                optimizer.step()
        found[rule] = {name: (len(sizes), sum(sizes)) for name, sizes in counter.calls.items()}
    return found


@pytest.mark.filterwarnings("ignore:.*outside its ball")
def test_stages_send_a_flag_and_a_number_or_two(tmp_path):
    numbers = {"measured": 2, "short-step-1": 1, "measured-1": 3}
    for found in launch(traffic, 2, tmp_path / "run"):
        for rule, calls in found.items():
            more = numbers.get(rule, 0)
            reductions = 2 + {0: 0, 1: 1, 2: 1, 3: 2}[more]
            sums = 2 if RULES[rule].get("constrained") else 1
            assert calls["all_reduce"] == (reductions, 4 + 8 * (sums + more)), rule
            assert calls["all_to_all_single"] == calls["broadcast"] == (0, 0)
