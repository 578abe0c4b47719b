"""The metrics of the steps, kept on the device."""

from collections.abc import Sequence

import torch
from torch import Tensor

from normball._scalar import Flag, Scalar, negated, tensor, together


class Record:
    """Running counts and the numbers of the last step; nothing here waits for the device.

    The counts are changed in place, so that a captured graph continues them.
    """

    def __init__(self) -> None:
        self._size: Scalar = 0.0
        self._factor: Scalar = 0.0
        self._per_group: Sequence[Scalar] = []
        self._counts = torch.zeros(4, dtype=torch.float64)
        self.started = False

    def add(
        self, size: Scalar, factor: Scalar, per_group: Sequence[Scalar], moved: Flag, finite: Flag
    ) -> None:
        """Record one step; `per_group` has one number for every group.

        `moved` says whether it counts as a step, `finite` whether it was not skipped.
        """
        self._size, self._factor, self._per_group = size, factor, per_group
        seen = together([moved, moved & (factor >= 1), negated(finite), size < 0])
        if self._counts.device != seen.device:
            self._counts = self._counts.to(size if isinstance(size, Tensor) else seen)
        self._counts.add_(seen)
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
        per_group = together(self._per_group)
        return {
            size_name: tensor(self._size, taken),
            "step_factor": tensor(self._factor, taken),
            "clipped_share": clipped / taken.clamp(min=1),
            "skipped": skipped.clone(),
            "group_dual_norms": torch.nn.functional.pad(per_group, (0, groups - len(per_group))),
        }
