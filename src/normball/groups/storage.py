"""How tensors store weights, and the norm of each kind of storage in a role."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch

from normball.norms import (
    RMS,
    Blocks,
    Column,
    Euclidean,
    Norm,
    Sign,
    Spectral,
    SpectralConv,
    Transposed,
)

ROLES = ("input", "hidden", "output", "embedding", "bias", "vector")
VECTORS = ("bias", "vector")


class Storage(ABC):
    """How a tensor stores a weight: the meaning of its dimensions."""

    @abstractmethod
    def norm(self, role: str) -> Norm | None:
        """Return the norm of the weight in one of `ROLES`; None if that is not known."""


@dataclass(frozen=True)
class Weight(Storage):
    """A matrix `(d_out, d_in)`, or a kernel `(c_out, c_in, *k)`, perhaps several in one.

    `transposed`: stored input first, with the first two dimensions exchanged. `blocks`: the number
    of weights, one below the other along the output.
    """

    kernel: bool = False
    blocks: int = 1
    transposed: bool = False

    def norm(self, role: str) -> Norm | None:
        """Return the norm of the weight; `embedding` is a matrix with one-hot inputs."""
        if role in VECTORS:
            return RMS()
        if role == "embedding":
            return Column(transposed=self.transposed)
        norm: Norm = Sign()
        if role != "output":
            scale = "input" if role == "input" else "rms"
            norm = SpectralConv(scale) if self.kernel else Spectral(scale)
        # Stored output first, one Sign over all blocks is the largest over the blocks.
        if self.blocks > 1 and (self.transposed or role != "output"):
            norm = Blocks(norm, self.blocks, dim=1 if self.transposed else 0)
        return Transposed(norm) if self.transposed else norm


@dataclass(frozen=True)
class Table(Storage):
    """One row per index: `(rows, d)`, or the same with dimensions of size 1 between or before."""

    shape: torch.Size

    def norm(self, role: str) -> Norm | None:
        """Return the norm of the table; in the role `output` its rows belong to the outputs."""
        if role in VECTORS:
            return RMS()
        if role == "output":
            return Sign()
        matrix = len(self.shape) == 2
        if role != "embedding":
            return Weight(transposed=True).norm(role) if matrix else None
        if matrix:
            return Column(transposed=True)
        long = [dim for dim, size in enumerate(self.shape) if size > 1]
        if len(long) < 2:
            return RMS()
        if len(long) > 2:
            return None
        table = Column(transposed=True)
        return Transposed(table, dims=(0, long[0])) if long[0] else table


@dataclass(frozen=True)
class Stack(Storage):
    """One matrix per expert, `(experts, d_out, d_in)`, or `transposed` `(experts, d_in, d_out)`.

    `blocks`: the number of maps in every matrix, one below the other along the output.
    """

    blocks: int = 1
    transposed: bool = False

    def norm(self, role: str) -> Norm | None:
        """Return the norm in which every map of every expert has its own ball."""
        if role in VECTORS:
            return RMS()
        if role not in ("input", "hidden"):
            return None
        norm: Norm = Spectral("input" if role == "input" else "rms")
        if self.blocks > 1:
            norm = Blocks(norm, self.blocks, dim=1)
        return Transposed(norm, dims=(1, 2)) if self.transposed else norm


@dataclass(frozen=True)
class Raw(Storage):
    """A tensor of which only the shape is known; as a weight it counts as `(d_out, d_in)`."""

    shape: torch.Size

    def norm(self, role: str) -> Norm | None:
        """Return the norm for the role; a hidden or first weight must be a matrix."""
        if role == "embedding":
            return Table(self.shape).norm(role)
        return None if role in ("input", "hidden") and len(self.shape) > 2 else Weight().norm(role)


@dataclass(frozen=True)
class Entries(Storage):
    """Entries of which some may have no gradient by construction, and must not move."""

    def norm(self, role: str) -> Norm | None:  # noqa: ARG002 (the same in every role)
        """Return the Euclidean norm, whose minimiser is 0 where the gradient is."""
        return Euclidean()
