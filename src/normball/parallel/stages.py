"""Ranks that hold different parameters: which rank counts a layer, and sums over all ranks."""

import hashlib
from collections import Counter
from collections.abc import Sequence
from contextlib import AbstractContextManager
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from normball.parallel.groups import Members, among, everybody, holders_of
from normball.parallel.sums import add_up


class Stages:
    """The stages of a pipeline, which hold different parameters.

    Together they are all ranks of the default process group.

    Args:
        stages: a process group, or a mesh of one dimension, that has one rank of every stage.

    Raises:
        TypeError: it is neither.
        ValueError: such groups do not have one rank of every stage each.
    """

    def __init__(self, stages: Any) -> None:
        import torch.distributed as dist

        group = stages.get_group() if hasattr(stages, "get_group") else stages
        if not isinstance(group, dist.ProcessGroup):
            raise TypeError(
                f"stages={stages!r} must be a process group or a mesh of one dimension, such as "
                'mesh["pp"]'
            )
        across = tuple(dist.get_process_group_ranks(group))
        found: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(found, across)
        copies = sorted(set(found))
        sizes = {len(copy) for copy in copies}
        if len(sizes) > 1 or sorted(chain(*copies)) != list(range(len(found))):
            raise ValueError(
                f"the ranks have the groups {copies} as stages=: every rank must be in one of "
                "them, with one rank of every other stage"
            )
        self._across = group
        self._all = [tuple(sorted(ranks)) for ranks in zip(*copies, strict=True)]
        ranks = self._all[across.index(dist.get_rank())]
        # Only the members take part.
        alone = len(ranks) == 1
        own = None if alone else dist.new_group(list(ranks), use_local_synchronization=True)
        self._shared = Members(ranks, own)
        # If there are several copies of the pipeline, only one is counted.
        self._counts = ranks[0] == dist.get_rank()

    def check_members(self, members: Sequence[tuple[str, Tensor, bool]]) -> None:
        """Compare the parameters of the ranks; all ranks call it together.

        Args:
            members: of this rank: the name, empty if there is none, the parameter, and whether
                this rank counts it.

        Raises:
            ValueError: ranks of one stage hold different parameters, or several stages count a
                parameter of one name. All ranks that belong together raise it.
        """
        import torch.distributed as dist

        described = [(name, tuple(x.shape), counted) for name, x, counted in members]
        digests: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(digests, hashlib.sha256(repr(described).encode()).digest())
        for ranks in self._all:
            if len({digests[rank] for rank in ranks}) > 1:
                raise ValueError(
                    f"the ranks {list(ranks)} have the same place in the groups of stages=, so "
                    "they are one stage, but they hold different parameters: stages= must be the "
                    'group or mesh across stages, such as mesh["pp"]'
                )
        with self.inside():
            ours = [(n, tuple(x.shape)) for n, x, c in members if n and c and not holders_of(x).all]
        held: list[Any] = [None] * dist.get_world_size(self._across)
        dist.all_gather_object(held, ours, self._across)
        twice = [pair for pair, count in Counter(chain(*held)).items() if count > 1]
        if twice:
            name, shape = twice[0]
            raise ValueError(
                f"{len(twice)} parameters are in several stages and would count more than once, "
                f"first {name} of shape {shape}. If stages= has ranks that hold the same, pass "
                "the group or mesh with one rank of every stage. Set counted=False in the groups "
                "of copies; give different parameters different names"
            )

    def inside(self) -> AbstractContextManager[None]:
        """Return a context in which sums over ranks are those over this rank's stage."""
        return among(self._shared)

    def sums(
        self, rows: Sequence[Sequence[Tensor]], owners: Sequence[Tensor], like: Tensor
    ) -> list[Tensor]:
        """Return the sum of every row over all layers of all ranks, by one reduction.

        Args:
            rows: each of one 0-d value for each layer of this rank; all holders of a layer have it.
            owners: those layers.
            like: 0-d, which gives dtype and device.
        """
        common = [holders_of(x).all for x in owners]
        theirs, ours = (
            [sum((v.to(like) for v, c in zip(row, common, strict=True) if c is kind), 0 * like)
             for row in rows]
            for kind in (True, False)
        )  # fmt: skip
        mine = torch.stack(ours)
        (total,) = add_up([mine if self._counts else torch.zeros_like(mine)], [everybody()])
        return [there + here for there, here in zip(total, theirs, strict=True)]

    def __getstate__(self) -> None:
        raise TypeError("an optimizer with stages= cannot be copied: build another one")
