"""The parameters of one step, small equal ones taken together."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from normball import parallel
from normball.norms import Norm

# Up to this many entries a tensor costs more to launch than to compute: 128 x 128 on a CPU, where
# products of larger matrices gain nothing from a batch; larger where launches wait in a queue.
_SMALL = {"cpu": 2**14}
_SMALL_ELSEWHERE = 2**18


@dataclass(slots=True)
class Block:
    """One parameter with a gradient, during one step.

    `param` and `grad` are what this rank holds; `owner` is the parameter as the optimizer has it, a
    DTensor where it is sharded.
    """

    name: str
    owner: Tensor
    param: Tensor
    grad: Tensor
    group: int
    norm: Norm
    radius: float
    longest: float  # the share of the way, or the length, of a step that is not held back
    alpha: float

    @property
    def sharded(self) -> bool:
        """Whether this rank holds a part of the parameter."""
        return self.param is not self.owner

    def kind(self) -> Hashable:
        """Return what blocks that a step can stack have in common; None for a large one."""
        p = self.param
        if self.sharded or p.numel() > _SMALL.get(p.device.type, _SMALL_ELSEWHERE):
            return None
        return self.group, p.shape, p.dtype, p.device, self.grad.dtype


@dataclass
class Bundle:
    """Blocks of one group, alike but for their values, in tensors stacked along a new dimension.

    A single block is taken as it is, without a copy. `room` is memory of this rank's part, of the
    dtype of the estimate but not its memory, that the update may be written to.
    """

    blocks: list[Block]
    room: Tensor | None = None

    @property
    def first(self) -> Block:
        """The block that has all that the bundle has in common."""
        return self.blocks[0]

    @property
    def stacked(self) -> bool:
        """Whether tensors of this bundle have a leading dimension over its blocks."""
        return len(self.blocks) > 1

    @property
    def params(self) -> list[Tensor]:
        """The parameters."""
        return [block.param for block in self.blocks]

    def whole(self, x: Tensor) -> Tensor:
        """Return all of the tensor of which `x`, joined, is this rank's part."""
        return x if self.stacked else parallel.whole(x, self.first.owner)

    def part(self, x: Tensor) -> Tensor:
        """Return this rank's part of a whole tensor, joined."""
        return x if self.stacked else parallel.part_of(x, self.first.owner)

    def join(self, tensors: Sequence[Tensor]) -> Tensor:
        """Return one tensor per block as the bundle's one tensor."""
        return torch.stack(list(tensors)) if self.stacked else tensors[0]

    def keep_(self, targets: list[Tensor], new: Tensor, old: Tensor, finite: Tensor) -> Tensor:
        """Write `new` to one target per block where `finite` (0-d) holds; else keep all bits.

        No branch: the host does not know the flag. `old` is what `join(targets)` gave. Returns what
        stands now, joined.
        """
        if not self.stacked:
            return torch.where(finite, new, old, out=targets[0])
        kept = torch.where(finite, new, old)
        torch._foreach_copy_(targets, kept.unbind())
        return kept


def bundles_of(blocks: Sequence[Block]) -> list[Bundle]:
    """Group small blocks of one kind, in order of first appearance; large ones stay alone."""
    found: dict[Hashable, Bundle] = {}
    for number, block in enumerate(blocks):
        kind = block.kind()
        key = number if kind is None else kind
        if key in found:
            found[key].blocks.append(block)
        else:
            found[key] = Bundle([block])
    return list(found.values())
