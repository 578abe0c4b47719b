"""Norms of tensors that hold several weights, or one weight stored transposed."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from normball._numeric import as_working, in_dtype, largest_singular_value, saturate
from normball._scalar import flag, known, saturated, where
from normball.norms.base import Norm
from normball.norms.spectral import Spectral

__all__ = ["Blocks", "Members", "Transposed"]


@dataclass(frozen=True)
class Blocks(Norm):
    """The largest norm over `count` equal blocks of a tensor, cut along `dim`.

    With the blocks `w_1, ..., w_count`, each of which keeps all dimensions of `w`, and `of` the
    norm of every block: `||w|| = max_i ||w_i||`, `lmo(d)_i = lmo(d_i)`, `||d||* = sum_i ||d_i||*`.
    Use it for weights stored in one tensor: query, key and value, the gates of a recurrent layer,
    the heads of an attention, the groups of a convolution. Blocks of the spectral family are
    computed in one batched call, those of another norm one after the other.

    Raises:
        TypeError: `of` is not a `Norm`.
        ValueError: `count` is not a whole number of at least 1, or `dim` is not a whole number.

    Examples:
        >>> import torch
        >>> from normball.norms import Blocks, Euclidean
        >>> d = torch.tensor([[3.0, 4.0], [6.0, 8.0]])
        >>> Blocks(Euclidean(), count=2).lmo(d)
        tensor([[-0.6000, -0.8000],
                [-0.6000, -0.8000]])
        >>> Blocks(Euclidean(), count=2).dual_norm(d)  # 5 + 10
        tensor(15.)
    """

    of: Norm
    count: int
    dim: int = 0

    def __post_init__(self) -> None:
        _check_norm("Blocks", self.of)
        if not (isinstance(self.count, int) and self.count >= 1):
            raise ValueError(f"count={self.count!r} must be a whole number of at least 1")
        if not isinstance(self.dim, int):
            raise ValueError(f"dim={self.dim!r} must be a whole number")

    def check(self, shape: torch.Size) -> None:
        """Raise ValueError where `dim` does not divide into `count`, or `of` not fit a block."""
        self._block_shape(shape)

    def norm(self, w: Tensor) -> Tensor:
        """Return `max_i ||w_i||`."""
        block = self._block_shape(w.shape)
        if not isinstance(self.of, Spectral) or w.numel() == 0:
            return torch.stack([self.of.norm(x) for x in self._cut(w)]).amax()
        matrices = self._matrices(self.of, w)
        return saturate(largest_singular_value(matrices).amax() / self.of._gain(block))

    def lmo_and_dual(self, d: Tensor) -> tuple[Tensor, Tensor]:
        """Return `lmo(d_i)` block by block, and `sum_i ||d_i||*`."""
        block = self._block_shape(d.shape)
        if not isinstance(self.of, Spectral) or d.numel() == 0:
            pairs = [self.of.lmo_and_dual(x) for x in self._cut(d)]
            lmo = self._join(torch.stack([v for v, _ in pairs]))
            duals = torch.stack([dual for _, dual in pairs])
            # A NaN in one block makes the whole tensor NaN.
            return torch.where(duals.isnan().any(), torch.nan, lmo), saturate(duals.sum())
        factor, nuclear = self.of.polar(self._matrices(self.of, d))
        gain = self.of._gain(block)
        # A NaN in one block makes the whole tensor NaN.
        sign = where(flag(nuclear.isnan().any()), math.nan, -1.0)
        sign = sign.to(factor.dtype) if isinstance(sign, Tensor) else sign
        lmo = self._join(factor.mul_(sign * gain).reshape(self.count, *block))
        return in_dtype(lmo, d.dtype), saturated(gain * known(nuclear.sum()), nuclear)

    def free(self, shape: torch.Size) -> frozenset[int]:
        """Return the dimensions along which every block is a stack."""
        return self.of.free(self._block_shape(shape)) - {self.dim % len(shape)}

    def flops(self, shape: torch.Size) -> float:
        """Return those of all blocks."""
        return self.count * self.of.flops(self._block_shape(shape))

    @property
    def synchronises(self) -> bool:
        """Whether the norm of a block waits for the device."""
        return self.of.synchronises

    def _onto_sphere(self, noise: Tensor) -> Tensor:
        return self._join(torch.stack([self.of._onto_sphere(x) for x in self._cut(noise)]))

    def _cut(self, w: Tensor) -> Tensor:
        """Return the blocks of `w`, stacked along a new first dimension."""
        dim = self.dim % w.ndim
        cut = (self.count, w.shape[dim] // self.count)
        return w.reshape(*w.shape[:dim], *cut, *w.shape[dim + 1 :]).movedim(dim, 0)

    def _join(self, blocks: Tensor) -> Tensor:
        """Undo `_cut`."""
        dim = self.dim % (blocks.ndim - 1)
        return blocks.movedim(0, dim).flatten(dim, dim + 1)

    def _matrices(self, of: Spectral, w: Tensor) -> Tensor:
        """Return the blocks as matrices, shape `(count, ..., m, n)`, in 32 or 64 bit."""
        blocks = as_working(self._cut(w))
        return blocks.reshape(self.count, *of._matrices(blocks[0]).shape)

    def _block_shape(self, shape: torch.Size) -> torch.Size:
        if not -len(shape) <= self.dim < len(shape):
            raise ValueError(
                f"{self} cuts dimension {self.dim}, which the shape {tuple(shape)} does not have"
            )
        size = shape[self.dim]
        if size % self.count:
            raise ValueError(
                f"{self} cannot cut dimension {self.dim} of the shape {tuple(shape)}: "
                f"{size} is not a multiple of {self.count}"
            )
        block = list(shape)
        block[self.dim] = size // self.count
        self.of.check(torch.Size(block))
        return torch.Size(block)


@dataclass(frozen=True)
class Members(Norm):
    """The largest norm over the members of an ensemble, which the first dimension counts.

    `||w|| = max_i ||w_i||`, `lmo(d)_i = lmo(d_i)`, `||d||* = sum_i ||d_i||*`. For the parameters
    that `torch.func.stack_module_state` makes; `Plan.stacked` places them.

    Raises:
        TypeError: `of` is not a `Norm`.

    Examples:
        >>> import torch
        >>> from normball.norms import RMS, Members
        >>> biases = torch.tensor([[3.0, 4.0], [6.0, 8.0]])  # of two models
        >>> Members(RMS()).lmo(biases).round(decimals=2)
        tensor([[-0.8500, -1.1300],
                [-0.8500, -1.1300]])
    """

    of: Norm

    def __post_init__(self) -> None:
        _check_norm("Members", self.of)

    def check(self, shape: torch.Size) -> None:
        """Raise ValueError without a first dimension, or where `of` does not fit a member."""
        if not shape:
            raise ValueError(f"{self} needs a first dimension that counts the members, got ()")
        self.of.check(shape[1:])

    def norm(self, w: Tensor) -> Tensor:
        """Return `max_i ||w_i||`."""
        self.check(w.shape)
        return self.of.stacked_norm(w) if w.numel() else as_working(w).sum()

    def lmo_and_dual(self, d: Tensor) -> tuple[Tensor, Tensor]:
        """Return `lmo(d_i)` member by member, and `sum_i ||d_i||*`."""
        self.check(d.shape)
        if not d.numel():
            return torch.zeros_like(d), as_working(d).sum()
        lmo, dual = self.of.stacked_lmo_and_dual(d)
        # A NaN in one member makes the whole tensor NaN.
        return torch.where(dual.isnan(), torch.nan, lmo), dual

    def stacked_lmo_and_dual(self, d: Tensor) -> tuple[Tensor, Tensor]:
        """Return those of all members of all ensembles of a stack."""
        self.check(d.shape[1:])
        lmo, dual = self.of.stacked_lmo_and_dual(d.flatten(0, 1))
        return lmo.reshape(d.shape), dual

    def stacked_norm(self, w: Tensor) -> Tensor:
        """Return the largest norm of all members of all ensembles of a stack."""
        self.check(w.shape[1:])
        return self.of.stacked_norm(w.flatten(0, 1))

    def lines(self, shape: torch.Size) -> tuple[frozenset[int], float] | None:
        """Return the lines of a member, one dimension later."""
        found = self.of.lines(shape[1:])
        return found and (frozenset(dim + 1 for dim in found[0]), found[1])

    def free(self, shape: torch.Size) -> frozenset[int]:
        """Return the first dimension, and the free ones of a member."""
        return frozenset({0} | {dim + 1 for dim in self.of.free(shape[1:])})

    def flops(self, shape: torch.Size) -> float:
        """Return those of all members."""
        return shape[0] * self.of.flops(shape[1:])

    @property
    def synchronises(self) -> bool:
        """Whether the norm of a member waits for the device."""
        return self.of.synchronises

    def _onto_sphere(self, noise: Tensor) -> Tensor:
        return torch.stack([self.of._onto_sphere(x) for x in noise])


@dataclass(frozen=True)
class Transposed(Norm):
    """The norm of the tensor with the two dimensions `dims` exchanged: `||w|| = of(w^T)`.

    `lmo(d) = of.lmo(d^T)^T`, and the dual norm is that of `d^T`. For weights stored input first: a
    matrix `(d_in, d_out)`, the kernel `(c_in, c_out, *k)` of a transposed convolution, and, with
    `dims=(1, 2)`, a stack of matrices `(count, d_in, d_out)`.

    Raises:
        TypeError: `of` is not a `Norm`.
        ValueError: `dims` is not a pair of different whole numbers.

    Examples:
        >>> import torch
        >>> from normball.norms import Spectral, Transposed
        >>> w = torch.ones(8, 2)  # stored (d_in, d_out): sigma_max = 4, s = sqrt(2 / 8)
        >>> Transposed(Spectral()).norm(w).round(decimals=2)
        tensor(8.)
        >>> Spectral().norm(w).round(decimals=2)
        tensor(2.)
    """

    of: Norm
    dims: tuple[int, int] = (0, 1)

    def __post_init__(self) -> None:
        _check_norm("Transposed", self.of)
        dims = tuple(self.dims)
        if len(dims) != 2 or dims[0] == dims[1] or not all(isinstance(i, int) for i in dims):
            raise ValueError(f"dims={self.dims!r} must be two different whole numbers")
        object.__setattr__(self, "dims", dims)

    def check(self, shape: torch.Size) -> None:
        """Raise ValueError where a dimension is missing, or `of` does not fit the exchanged one."""
        if not all(-len(shape) <= i < len(shape) for i in self.dims):
            raise ValueError(
                f"{self} exchanges the dimensions {self.dims}, which the shape {tuple(shape)} "
                "does not have"
            )
        self.of.check(self._exchanged(shape))

    def norm(self, w: Tensor) -> Tensor:
        """Return the norm of `w^T`."""
        self.check(w.shape)
        return self.of.norm(w.transpose(*self.dims))

    def lmo_and_dual(self, d: Tensor) -> tuple[Tensor, Tensor]:
        """Return the minimiser for `d^T`, exchanged back, and its dual norm."""
        self.check(d.shape)
        lmo, dual = self.of.lmo_and_dual(d.transpose(*self.dims))
        return lmo.transpose(*self.dims), dual

    def lines(self, shape: torch.Size) -> tuple[frozenset[int], float] | None:
        """Return the lines of the exchanged tensor, exchanged back."""
        found = self.of.lines(self._exchanged(shape))
        return found and (self._back(found[0], len(shape)), found[1])

    def free(self, shape: torch.Size) -> frozenset[int]:
        """Return the free dimensions of the exchanged tensor, exchanged back."""
        return self._back(self.of.free(self._exchanged(shape)), len(shape))

    def flops(self, shape: torch.Size) -> float:
        """Return those of the exchanged tensor."""
        return self.of.flops(self._exchanged(shape))

    def _exchanged(self, shape: torch.Size) -> torch.Size:
        sizes = list(shape)
        first, second = self.dims
        sizes[first], sizes[second] = sizes[second], sizes[first]
        return torch.Size(sizes)

    def _back(self, found: frozenset[int], ndim: int) -> frozenset[int]:
        order = list(range(ndim))
        first, second = self.dims
        order[first], order[second] = order[second], order[first]
        return frozenset(order[dim] for dim in found)

    @property
    def synchronises(self) -> bool:
        """Whether the norm of the exchanged tensor waits for the device."""
        return self.of.synchronises

    def _onto_sphere(self, noise: Tensor) -> Tensor:
        return self.of._onto_sphere(noise.transpose(*self.dims)).transpose(*self.dims)


def _check_norm(owner: str, norm: object) -> None:
    if not isinstance(norm, Norm):
        raise TypeError(f"{owner}(of={norm!r}) must be given a norm, such as Spectral()")
