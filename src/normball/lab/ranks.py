"""Several processes that train one run together, as torchrun starts them."""

import os

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from normball.lab.errors import LabError

_REMEDY = "start the command with torchrun, or unset RANK and WORLD_SIZE."


def rank() -> int:
    """This process's number, from 0."""
    return _number("RANK", 0)


def world() -> int:
    """How many processes train together; 1 without torchrun."""
    return _number("WORLD_SIZE", 1)


def _number(name: str, default: int) -> int:
    text = os.environ.get(name, "")
    try:
        return int(text) if text else default
    except ValueError:
        raise LabError(f"{name} is {text!r} in the environment: {_REMEDY}") from None


def device() -> torch.device:
    """The GPU of this process, or the CPU where there is none."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", _number("LOCAL_RANK", 0))


def join() -> None:
    """Join the processes of torchrun, or a LabError says what is wrong; do nothing without it."""
    if not 0 <= rank() < world():
        raise LabError(f"RANK is {rank()}, and WORLD_SIZE is {world()}: {_REMEDY}")
    if world() > 1 and not dist.is_initialized():
        if device().type == "cuda":
            torch.cuda.set_device(device())
        try:
            dist.init_process_group("nccl" if device().type == "cuda" else "gloo")
        except (ValueError, RuntimeError) as error:
            reason = str(error).splitlines()[0]
            raise LabError(f"cannot join {world()} processes ({reason}): {_REMEDY}") from None


def leave() -> None:
    """Leave the process group, if there is one."""
    if dist.is_initialized():
        dist.destroy_process_group()


def share(batch: Tensor) -> Tensor:
    """This process's part of a mini-batch.

    Args:
        batch: the mini-batch that all processes have, shape ``(n, ...)``.

    Raises:
        LabError: if the processes do not divide it.
    """
    if len(batch) % world():
        raise LabError(
            f"--batch-size over --accumulate is {len(batch)}, which {world()} processes do not "
            "divide."
        )
    return batch.chunk(world())[rank()]


def shared(model: nn.Module) -> nn.Module:
    """The model, its gradients averaged over the processes; the model itself for one process."""
    return DistributedDataParallel(model) if world() > 1 else model


def mean(value: Tensor) -> Tensor:
    """A number's mean over the processes.

    Args:
        value: 0-d, of this process.
    """
    if world() > 1:
        dist.all_reduce(value)
        value /= world()
    return value
