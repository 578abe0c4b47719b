"""Ranks with parameters of their own train as one process does."""

import pytest
import torch
from torch.distributed.tensor import DTensor

from normball import ClippedScion
from tests import needs
from tests.distributed import pipeline as zoo
from tests.distributed.launch import launch
from tests.distributed.test_agreement import TOLERANCE

RULES = {
    "clipped": {"rho": 60.0},
    "short-step-1": {"rho": 60.0, "constrained": True, "variant": 1},
    "short-step-2": {"rho": 60.0, "constrained": True},
    "measured": {"rho": "auto"},
    "measured-1": {"rho": "auto", "constrained": True, "variant": 1},
    "recipe": {"rho": 60.0, "average": 0.3},
}


def optimizer_of(groups, rule, **more):
    return ClippedScion(groups, 0.02, alpha=0.3, **RULES[rule], **more)


def figures(optimizer, rule):
    metrics = optimizer.metrics()
    size = metrics["gap" if RULES[rule].get("constrained") else "dual_norm"]
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


def compare(cases, every_rank):
    for i, case in enumerate(cases):
        weights, seen = alone(*case[2:])
        assert seen[:, 1].min() < 0.9, "the threshold must matter"
        weights["head.weight"] = weights["table.weight"]
        for results in every_rank:
            found, there = results[i]
            assert {name for name, _ in found} == set(weights)
            assert torch.allclose(there, seen, rtol=10 * TOLERANCE, atol=TOLERANCE), case
            for name, x in found:
                error = float((x - weights[name].detach()).abs().max())
                assert error <= TOLERANCE, (case, name, error)


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
    cases = cases_of(["1f1b"], inner)
    compare(cases, launch(on_each_rank, 4, tmp_path / "run", cases))
