"""Steps recorded in a CUDA graph: what they ask of parameters, norms and settings."""

import torch
from torch import Tensor

from normball import parallel
from normball.optim.settings import Group


def check_group(group: Group) -> None:
    """Refuse what a captured step cannot do.

    Raises:
        ValueError: a parameter is sharded, or its norm waits for the device.
    """
    norm = group["norm"]
    for entry in group["params"]:
        p: Tensor = entry[1] if isinstance(entry, tuple) else entry
        if parallel.is_sharded(p):
            raise ValueError(
                "capturable=True takes no sharded parameters: a step that exchanges data with "
                "other ranks is not captured. Leave capturable out"
            )
        if p.device.type != "cpu" and norm.synchronises:
            raise ValueError(
                f"{norm} waits for the device in every step, which cannot be captured: use a norm "
                "without a decomposition, or a polar factor of products alone such as "
                "PolarExpress()"
            )


def recording() -> bool:
    """Tell whether what is launched now is recorded in a CUDA graph instead of run."""
    return torch.cuda.is_available() and torch.cuda.is_current_stream_capturing()


def check_numbers(group: Group) -> None:
    """Refuse numbers that the graph would keep for ever.

    Raises:
        ValueError: `lr` or `rho` is no tensor.
    """
    for name in ("lr", "rho"):
        value = group.get(name)
        if value is not None and not isinstance(value, Tensor):
            raise ValueError(
                f"{name}={value!r} is a plain number, which a captured step would keep for ever: "
                f"it began as a tensor; change it by group[{name!r}].fill_({value!r})"
            )
