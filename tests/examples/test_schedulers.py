"""torch's schedulers set the length of the step, and nothing else."""

import pytest
import torch
from torch.optim import SGD, lr_scheduler

from normball import ClippedScion
from normball.norms import Sign

LR = 0.5
STEPS = 12

SCHEDULERS = {
    "LambdaLR": lambda o: lr_scheduler.LambdaLR(o, lambda step: 0.9**step),
    "MultiplicativeLR": lambda o: lr_scheduler.MultiplicativeLR(o, lambda step: 0.8),
    "StepLR": lambda o: lr_scheduler.StepLR(o, 3),
    "MultiStepLR": lambda o: lr_scheduler.MultiStepLR(o, [2, 5], gamma=0.5),
    "ConstantLR": lambda o: lr_scheduler.ConstantLR(o, factor=0.5, total_iters=4),
    "LinearLR": lambda o: lr_scheduler.LinearLR(o, 0.1, 1.0, total_iters=6),
    "ExponentialLR": lambda o: lr_scheduler.ExponentialLR(o, 0.9),
    "PolynomialLR": lambda o: lr_scheduler.PolynomialLR(o, STEPS, power=2),
    "CosineAnnealingLR": lambda o: lr_scheduler.CosineAnnealingLR(o, STEPS),
    "CosineAnnealingWarmRestarts": lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 4),
    "CyclicLR": lambda o: lr_scheduler.CyclicLR(o, 0.1, LR, 3, cycle_momentum=False),
    "OneCycleLR": lambda o: lr_scheduler.OneCycleLR(
        o, LR, total_steps=STEPS + 1, cycle_momentum=False
    ),
    "CyclicLR with momentum": lambda o: lr_scheduler.CyclicLR(o, 0.1, LR, 3),
    "OneCycleLR with momentum": lambda o: lr_scheduler.OneCycleLR(o, LR, total_steps=STEPS + 1),
    "SequentialLR": lambda o: lr_scheduler.SequentialLR(
        o,
        [lr_scheduler.LinearLR(o, 0.1, 1.0, 4), lr_scheduler.CosineAnnealingLR(o, STEPS - 4)],
        [4],
    ),
    "ChainedScheduler": lambda o: lr_scheduler.ChainedScheduler(
        [lr_scheduler.ConstantLR(o, 0.5, 3), lr_scheduler.ExponentialLR(o, 0.9)]
    ),
    "ReduceLROnPlateau": lambda o: lr_scheduler.ReduceLROnPlateau(o, factor=0.5, patience=1),
}


def move(scheduler) -> None:
    plateau = isinstance(scheduler, lr_scheduler.ReduceLROnPlateau)
    scheduler.step(1.0) if plateau else scheduler.step()


@pytest.mark.parametrize("name", SCHEDULERS)
def test_a_step_is_as_long_as_the_scheduler_says(name: str):
    """Far above the threshold in the max norm, where a step moves every entry by exactly lr."""
    w, other = torch.zeros(4, dtype=torch.float64), torch.zeros(4, dtype=torch.float64)
    groups = [{"params": [w.requires_grad_()], "norm": Sign(normalized=False)}]
    optimizer = ClippedScion(groups, lr=LR, rho=1e-9)
    reference = SGD([other.requires_grad_()], lr=LR)
    ours, theirs = SCHEDULERS[name](optimizer), SCHEDULERS[name](reference)
    lengths, expected = [], []
    for _ in range(STEPS):
        before = w.detach().clone()
        w.grad, other.grad = torch.ones_like(w), torch.ones_like(other)
        expected.append(reference.param_groups[0]["lr"])
        optimizer.step()
        reference.step()
        lengths.append(float((before - w.detach()).max()))
        move(ours)
        move(theirs)
    assert lengths == pytest.approx(expected, abs=1e-12)
    assert len(set(expected)) > 1


@pytest.mark.parametrize("name", SCHEDULERS)
def test_state_with_a_scheduler_s_keys_resumes(name: str):
    """Schedulers leave keys of their own in the groups, which a checkpoint carries along."""
    w = torch.zeros(3, requires_grad=True)
    optimizer = ClippedScion([w], lr=LR, rho=1.0)
    scheduler = SCHEDULERS[name](optimizer)
    w.grad = torch.ones(3)
    for _ in range(3):
        optimizer.step()
        move(scheduler)
    again = ClippedScion([torch.zeros(3, requires_grad=True)], lr=LR, rho=1.0)
    other = SCHEDULERS[name](again)
    again.load_state_dict(optimizer.state_dict())
    other.load_state_dict(scheduler.state_dict())
    move(scheduler)
    move(other)
    assert again.param_groups[0]["lr"] == optimizer.param_groups[0]["lr"]
