"""torch's ZeroRedundancyOptimizer, which shares the state out, against one process."""

import warnings
from functools import partial

import pytest
import torch
import torch.distributed as dist
from torch import nn

from normball import ClippedScion, param_groups
from tests.distributed.launch import launch

RANKS = 2
CASES = {
    "clipped": {"rho": 5.0},
    "measured": {"rho": "auto"},
    "average": {"rho": 5.0, "average": 0.1},
    "constrained": {"rho": 5.0, "constrained": True},
}


def zero_optimizer(*arguments, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the import says that TorchScript is deprecated
        from torch.distributed.optim import ZeroRedundancyOptimizer
    return ZeroRedundancyOptimizer(*arguments, **options)


def run(case, zero):
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(8, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 4)
    )
    model.double()
    plan, seen = param_groups(model), []
    if zero:
        groups = [{**group, "params": [p for _, p in group["params"]]} for group in plan]
        make = partial(ClippedScion, stages=dist.group.WORLD, **CASES[case])
        optimizer = zero_optimizer(groups, make, lr=0.03)
    else:
        optimizer = ClippedScion(plan, lr=0.03, **CASES[case])
    for step in range(20):
        x = torch.randn(16, 8, generator=torch.Generator().manual_seed(step)).double()
        optimizer.zero_grad()
        (model(x) - x[:, :4]).square().mean().backward()
        optimizer.step()
        metrics = (optimizer.optim if zero else optimizer).metrics()
        seen.append([float(metrics["gap" if "gap" in metrics else "dual_norm"])])
        seen[-1].append(float(metrics["step_factor"]))
    return [p.detach() for p in model.parameters()], seen


def refusal():
    try:
        zero_optimizer([nn.Parameter(torch.ones(3, 3))] * 1, ClippedScion, lr=0.03, rho=5.0)
    except TypeError as error:
        return str(error)


def everything():
    return {case: run(case, True) for case in CASES}, refusal()


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    return launch(everything, RANKS, tmp_path_factory.mktemp("zero") / "run")


@pytest.mark.filterwarnings("ignore:.*starts outside")
@pytest.mark.parametrize("case", CASES)
def test_ranks_with_parts_of_the_optimizer_step_as_one_process(results, case):
    weights, seen = run(case, False)
    for found, _ in results:
        for p, q in zip(found[case][0], weights, strict=True):
            assert torch.allclose(p, q, rtol=0, atol=1e-10)
        assert torch.allclose(torch.tensor(found[case][1]), torch.tensor(seen), rtol=1e-10)


def test_without_stages_it_is_refused_with_the_way(results):
    for _, text in results:
        assert "pass functools.partial(ClippedScion, stages=torch.distributed.group.WORLD)" in text
