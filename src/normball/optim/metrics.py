"""The metrics of the steps, kept on the device."""

import torch
from torch import Tensor


class Record:
    """Running counts and the numbers of the last step; nothing here waits for the device.

    The counts are changed in place, so that a captured graph continues them.
    """

    def __init__(self) -> None:
        zero = torch.zeros((), dtype=torch.float64)
        self._size = self._factor = zero
        self._per_group = torch.zeros(0, dtype=torch.float64)
        self._counts = torch.zeros(4, dtype=torch.float64)
        self.started = False

    def add(
        self, size: Tensor, factor: Tensor, per_group: Tensor, moved: Tensor, finite: Tensor
    ) -> None:
        """Record one step; all 0-d on one device, except `per_group`, one entry per group.

        `moved` says whether it counts as a step, `finite` whether it was not skipped.
        """
        self._size, self._factor, self._per_group = size, factor, per_group
        self._counts = self._counts.to(size.device, size.dtype)
        clipped = moved & (factor >= 1)
        self._counts.add_(torch.stack([moved, clipped, finite.logical_not(), size < 0]))
        self.started = True

    @property
    def counts(self) -> Tensor:
        """The steps taken, clipped, skipped, and with a negative gap, shape `(4,)`.

        Every step changes it in place.
        """
        return self._counts

    def read(self, size_name: str, groups: int) -> dict[str, Tensor]:
        """Return the metrics under their public names, for `groups` groups."""
        taken, clipped, skipped, _ = self._counts.unbind()
        per_group = self._per_group
        return {
            size_name: self._size,
            "step_factor": self._factor,
            "clipped_share": clipped / taken.clamp(min=1),
            "skipped": skipped.clone(),
            "group_dual_norms": torch.nn.functional.pad(per_group, (0, groups - len(per_group))),
        }
