"""What the steps saw, kept on the device."""

import torch
from torch import Tensor


class Record:
    """Running counts and the figures of the last step; nothing here waits for the device."""

    def __init__(self) -> None:
        zero = torch.zeros((), dtype=torch.float64)
        self._size = self._factor = self._taken = self._clipped = self._skipped = zero
        self._per_group = torch.zeros(0, dtype=torch.float64)

    def add(self, size: Tensor, factor: Tensor, per_group: Tensor, moved: Tensor) -> None:
        """Take in one step; all 0-d on one device, but `per_group`, one entry per group.

        `factor` is 0 and `moved` False for a step that was skipped. Where all estimates are zero no
        step is counted: torch.distributed.checkpoint makes one like it to create the state.
        """
        device, dtype = size.device, size.dtype
        self._size, self._factor, self._per_group = size, factor, per_group
        counted = moved & (per_group.sum() != 0)
        self._taken = self._taken.to(device, dtype) + counted
        self._clipped = self._clipped.to(device, dtype) + (counted & (factor >= 1))
        self._skipped = self._skipped.to(device, dtype) + ~moved

    def read(self, size_name: str) -> dict[str, Tensor]:
        """Return the figures under their public names."""
        return {
            size_name: self._size,
            "step_factor": self._factor,
            "clipped_share": self._clipped / self._taken.clamp(min=1),
            "skipped": self._skipped,
            "group_dual_norms": self._per_group,
        }
