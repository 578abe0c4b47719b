"""How the step size changes from step to step."""

import math

import torch

# The last part of a trapezoidal run, as in the paper's language models.
DECAY = 0.285


def make_schedule(
    name: str, optimizer: torch.optim.Optimizer, steps: int, warmup: float = 0.0
) -> torch.optim.lr_scheduler.LambdaLR:
    """Sets an optimizer's step sizes over a run.

    Args:
        name: ``"constant"``; ``"linear"``, from the full size down to 0 after the last step;
            ``"cosine"``, likewise along half a cosine; ``"trapezoidal"``, full and then linearly
            to 0 over the last 28.5 % of the steps.
        optimizer: whose step sizes it sets.
        steps: length of the run.
        warmup: share of the steps over which the size grows linearly from 0 before that.
    """
    return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda k: factor(name, k, steps, warmup))


def factor(name: str, step: int, steps: int, warmup: float) -> float:
    """The step size at a step, as a share of the full one."""
    growing = round(warmup * steps)
    if step < growing:
        return (step + 1) / growing
    # After the last step, which may be in the warm-up, the factor is that of the end.
    done = (step - growing) / (steps - growing) if step < steps else 1.0
    if name == "linear":
        return 1 - done
    if name == "cosine":
        return (1 + math.cos(math.pi * done)) / 2
    if name == "trapezoidal":
        return min(1.0, (1 - step / steps) / DECAY) if step < steps else 0.0
    return 1.0
