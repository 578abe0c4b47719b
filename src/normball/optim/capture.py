"""Steps recorded in a CUDA graph: their requirements on parameters, norms and settings."""

from collections.abc import Container, Mapping, Sequence
from operator import is_

import torch
from torch import Tensor

from normball import parallel
from normball.optim.buckets import Bucket, Roster
from normball.optim.settings import Group, Settings


def check_group(group: Group) -> None:
    """Refuse a group that a captured step cannot handle.

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
    """Tell whether a CUDA graph is being captured: launches are then recorded, not run."""
    return torch.cuda.is_available() and torch.cuda.is_current_stream_capturing()


def check_now(
    settings: Settings,
    roster: Roster,
    state: Mapping[Tensor, Mapping[str, Tensor]],
    inside: Container[Tensor] | None,
    started: bool,
) -> None:
    """Refuse to capture a step whose replay would not be a valid step.

    Args:
        settings: of the optimizer.
        roster: the parameters of this step.
        state: of the optimizer.
        inside: the parameters that are known to be in their ball; None if there are no balls.
        started: whether the optimizer has taken a step, which creates its counts.

    Raises:
        RuntimeError: the optimizer is not capturable, or its state is not as a step leaves it.
    """
    if not settings.capturable:
        raise RuntimeError(
            "this step is being captured in a CUDA graph: build the optimizer with "
            "capturable=True, so that the graph sees later values of lr and rho"
        )
    known = all(inside is None or param.tensor in inside for param in roster.params)
    if not (started and known and all(_has_state(bucket, state) for bucket in roster.buckets)):
        raise RuntimeError(
            "some parameters have not taken a step with this state yet: take one with the same "
            "gradients before capturing, since it makes the momentum, and reads the norm of a "
            "constrained start"
        )


def _has_state(bucket: Bucket, state: Mapping[Tensor, Mapping[str, Tensor]]) -> bool:
    """Tell whether the momenta exist, in the memory where the step will read them."""
    if bucket.group.alpha == 1:
        return True
    rows = [state.get(param.tensor, {}).get("momentum") for param in bucket.params]
    if not bucket.stacked:
        return rows[0] is not None
    return len(bucket.rows) == len(rows) and all(map(is_, rows, bucket.rows))


def check_numbers(groups: Sequence[Group]) -> None:
    """Refuse numbers that every replay of the graph would use unchanged.

    Raises:
        ValueError: `lr` or `rho` is not a tensor.
    """
    for group in groups:
        for name in ("lr", "rho"):
            value = group.get(name)
            if value is not None and not isinstance(value, Tensor):
                raise ValueError(
                    f"{name}={value!r} is a plain number, which a captured step would keep for "
                    f"ever: it began as a tensor; change it by group[{name!r}].fill_({value!r})"
                )
