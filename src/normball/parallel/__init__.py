"""Sharded parameters and work divided among ranks: only this package uses torch.distributed.

A parameter sharded over ranks (a DTensor, as FSDP2 and tensor parallelism make it) keeps its
shards, and so does its momentum. The norm of a layer is that of the whole layer. If that norm needs
the whole matrix, one rank, the owner, gathers it, computes the minimiser, and sends every rank its
part of the result. Or several ranks compute one together, each from a part, and the owner of a sum
of smaller products. Owners are chosen so that all ranks have about the same work. If there
are copies, every copy has owners of its own, or one owner serves all copies (`split`). There is one
reduction for the finite flag, and one for the numbers of a step. If ranks hold different
parameters, as the stages of a pipeline do, one more reduction makes these numbers global.
"""

from normball.parallel.cuts import Cut, cut_of, everyone, of_all_copies
from normball.parallel.division import Job, divide, share_out
from normball.parallel.groups import Members, alone, everybody
from normball.parallel.shards import (
    aligned,
    check_placements,
    check_rows,
    is_flat,
    is_sharded,
    local,
    part_of,
    whole,
    zeros_by_rows,
)
from normball.parallel.stages import Stages
from normball.parallel.sums import add_up, largest, least_vote
from normball.parallel.teams import Together, together

__all__ = [
    "Cut",
    "Job",
    "Members",
    "Stages",
    "Together",
    "add_up",
    "aligned",
    "alone",
    "check_placements",
    "check_rows",
    "cut_of",
    "divide",
    "everybody",
    "everyone",
    "is_flat",
    "is_sharded",
    "largest",
    "least_vote",
    "local",
    "of_all_copies",
    "part_of",
    "share_out",
    "together",
    "whole",
    "zeros_by_rows",
]
