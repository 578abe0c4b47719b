"""DTensors: this rank's part, the whole, and back."""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor


def is_sharded(x: object) -> bool:
    """Tell whether `x` is a DTensor, without importing torch.distributed."""
    return type(x).__name__ == "DTensor"


def is_flat(x: Tensor) -> bool:
    """Tell whether `x` is part of layers flattened into one vector, as by FSDP1 and ZeRO."""
    marks = ("_is_flat_param", "_fsdp_flattened", "ds_id")
    return type(x).__name__ == "FlatParameter" or any(hasattr(x, mark) for mark in marks)


def check_placements(name: str, x: Tensor) -> None:
    """Raise ValueError for a DTensor that holds sums still to be reduced."""
    placements: Any = getattr(x, "placements", ())
    if any(placement.is_partial() for placement in placements):
        raise ValueError(
            f"{name} has the placements {tuple(placements)}: reduce the partial sums first "
            "(redistribute to Shard or Replicate)"
        )


def local(x: Tensor) -> Tensor:
    """Return the part of `x` on this rank, sharing its memory; `x` itself if it is not sharded.

    Call it where gradients are off.
    """
    part: Tensor = x.to_local() if is_sharded(x) else x  # type: ignore[attr-defined]
    return part


def aligned(gradient: Tensor, parameter: Tensor) -> Tensor:
    """Return `gradient` with the placements of `parameter`; itself if it has them already.

    Tensor parallelism can leave the gradient of a replicated gain as sums still to be reduced.
    """
    if not is_sharded(gradient) or gradient.placements == parameter.placements:  # type: ignore[attr-defined]
        return gradient
    moved: Tensor = gradient.redistribute(placements=parameter.placements)  # type: ignore[attr-defined]
    return moved


def check_rows(name: str, x: Tensor) -> None:
    """Raise ValueError for a DTensor that is cut along another dimension than the first."""
    placements: Any = getattr(x, "placements", ())
    # A strided shard, as FSDP2 over tensor parallelism makes it, is of another type.
    if any(not p.is_replicate() and (type(p).__name__, p.dim) != ("Shard", 0) for p in placements):
        raise ValueError(
            f"{name}: state_dtype=torch.int8 keeps blocks along rows, which the placements "
            f"{tuple(placements)} cut: shard it along dimension 0, or use torch.bfloat16"
        )


def zeros_by_rows(like: "Tensor | DTensor", columns: int, dtype: torch.dtype) -> Tensor:
    """Return zeros of shape `(like.shape[0], columns)`, with rows where `like` has its rows.

    `like` must be cut along its first dimension alone; `check_rows` checks that.
    """
    if not is_sharded(like):
        return like.new_zeros((like.shape[0], columns), dtype=dtype, requires_grad=False)
    from torch.distributed.tensor import zeros

    sharded: Any = like
    made: Tensor = zeros(
        (like.shape[0], columns),
        dtype=dtype,
        device_mesh=sharded.device_mesh,
        placements=sharded.placements,
    )
    return made


def whole(part: Tensor, like: "Tensor | DTensor") -> Tensor:
    """Gather the tensor of which every rank holds `part`, sharded as `like`.

    Args:
        part: this rank's values, of the shape of `local(like)`.
        like: a DTensor, which gives shape, mesh and placements; if it is a plain tensor, `part` is
            returned.

    Returns:
        A plain tensor of the shape of `like`, the same on every rank.
    """
    if not is_sharded(like):
        return part
    from torch.distributed.tensor import DTensor

    sharded: Any = like
    stride = torch.empty(sharded.shape, device="meta").stride()
    gathered = DTensor.from_local(
        part.contiguous(),
        sharded.device_mesh,
        sharded.placements,
        run_check=False,
        shape=sharded.shape,
        stride=stride,
    )
    return gathered.full_tensor()


def part_of(x: Tensor, like: "Tensor | DTensor") -> Tensor:
    """Return this rank's part of the whole tensor `x`, sharded as `like`; nothing is sent.

    Args:
        x: the same plain tensor on every rank, of the shape of `like`.
        like: a DTensor; if it is a plain tensor, `x` is returned.
    """
    if not is_sharded(like):
        return x
    from torch.distributed.tensor import DTensor, Replicate

    sharded: Any = like
    mesh = sharded.device_mesh
    everywhere = DTensor.from_local(x, mesh, [Replicate()] * mesh.ndim, run_check=False)
    return everywhere.redistribute(placements=sharded.placements).to_local().contiguous()
