"""Norms that treat one or several tensors of any shape as one vector."""

import math
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from normball._numeric import as_working, host_knows, in_dtype, peak, saturate, split_scale
from normball._scalar import Scalar, known, saturated, where
from normball.norms.base import Norm

__all__ = ["L1", "RMS", "Euclidean", "Lp", "Sign", "VectorNorm"]


# With a length between these, sums of squares neither overflow nor lose anything.
_LOW, _HIGH = 1e-10, 1e10


def _unit_scale(parts: Sequence[Tensor]) -> tuple[list[Tensor], Scalar]:
    """Divide tensors by their largest entry in absolute value; return them and it.

    The scale is 1 where all entries are 0, and NaN where one of them is NaN or infinite.
    """
    work = [as_working(x) for x in parts]
    scale = _top([peak(x) for x in work if x.numel()] or [work[0].new_ones(())])
    return [x / _on(scale, x) for x in work], scale


def _units_and_length(parts: Sequence[Tensor]) -> tuple[Sequence[Tensor], Scalar, Scalar]:
    """Return tensors, the Euclidean norm of their concatenation, and what both are divided by.

    They are divided by their largest entry, unless the host knows that squares are in range: then
    they are `parts` itself.
    """
    if host_knows(parts[0]):
        length = _of_all(list(map(_euclidean, parts)), 2)  # which holds one part at a time
        if not isinstance(length, Tensor) and _LOW <= length <= _HIGH:
            return parts, length, 1.0
    units, scale = _unit_scale(parts)
    return units, _length(units, 2), scale


def _times(units: Sequence[Tensor], factor: Scalar, parts: Sequence[Tensor]) -> list[Tensor]:
    """Return the units, which may be `parts` itself, times a factor, in the dtypes of `parts`."""
    if units is not parts:
        return [(x * _on(factor, x)).to(p.dtype) for x, p in zip(units, parts, strict=True)]

    def one(x: Tensor) -> Tensor:
        return in_dtype(as_working(x) * _on(factor, x), x.dtype)

    return list(map(one, parts))  # a sequence may compute what is read: it holds one at a time


def _top(peaks: Sequence[Tensor]) -> Scalar:
    """Return the largest of the peaks: 1 in place of 0, NaN where one is NaN or infinite."""
    scale = known(peaks[0] if len(peaks) == 1 else _together(peaks).amax())
    scale = where(scale == 0, 1.0, scale)
    return scale + 0 * (scale - scale)  # infinity - infinity is NaN


def _together(values: Sequence[Tensor]) -> Tensor:
    """Return 0-d tensors as one vector on the device of the first."""
    return torch.stack([x.to(values[0].device) for x in values])


def _on(value: Scalar, x: Tensor) -> Scalar:
    """Return a number where `x` is."""
    return value.to(x.device) if isinstance(value, Tensor) else value


class VectorNorm(Norm):
    """A norm on vectors: a tensor is the vector of its entries, several are concatenated.

    The concatenation is never built. `joint_norm` and `joint_lmo_and_dual` take tensors of any
    shapes and devices; scalars are returned on the device of the first.

    Examples:
        >>> import torch
        >>> from normball.norms import Euclidean, VectorNorm
        >>> class Doubled(VectorNorm):
        ...     def joint_norm(self, parts):
        ...         return 2 * Euclidean().joint_norm(parts)
        ...
        ...     def joint_lmo_and_dual(self, parts):
        ...         lmo, dual = Euclidean().joint_lmo_and_dual(parts)
        ...         return [v / 2 for v in lmo], dual / 2
        >>> Doubled().joint_norm([torch.tensor([3.0]), torch.tensor([[4.0]])])
        tensor(10.)
    """

    @abstractmethod
    def joint_norm(self, parts: Sequence[Tensor]) -> Tensor:
        """Return the norm of the concatenation, 0-d."""

    @abstractmethod
    def joint_lmo_and_dual(self, parts: Sequence[Tensor]) -> tuple[list[Tensor], Tensor]:
        """Return the minimiser over the unit ball, cut like `parts`, and the dual norm, 0-d."""

    def norm(self, w: Tensor) -> Tensor:
        """Return `||w||`, 0-d."""
        return self.joint_norm([w])

    def lmo_and_dual(self, d: Tensor) -> tuple[Tensor, Tensor]:
        """Return `lmo(d)` and `||d||*`, 0-d."""
        (lmo,), dual = self.joint_lmo_and_dual([d])
        return lmo, dual


@dataclass(frozen=True)
class Lp(VectorNorm):
    """The norm `||w||_p = (sum_i |w_i|^p)^(1/p)`, with `p` in `(1, inf)`; its dual is `||d||_q`.

    With `1/p + 1/q = 1`: `lmo(d)_i = -sign(d_i) (|d_i| / ||d||_q)^(q-1)`. The ends are `L1()` and
    `Sign(normalized=False)`, and `p = 2` is `Euclidean()`.

    Examples:
        >>> import torch
        >>> from normball.norms import Lp
        >>> w = torch.ones(8)
        >>> Lp(3.0).norm(w), Lp(3.0).dual_norm(w)  # 8^(1/3) and 8^(2/3)
        (tensor(2.), tensor(4.))
        >>> Lp(3.0).lmo(w)[:2]
        tensor([-0.5000, -0.5000])
    """

    p: float

    def __post_init__(self) -> None:
        if not 1 < self.p < float("inf"):
            raise ValueError(
                f"p={self.p} must lie in (1, inf); use L1() for p = 1 and Sign(normalized=False) "
                "for p = inf"
            )

    def joint_norm(self, parts: Sequence[Tensor]) -> Tensor:
        """Return `||w||_p`."""
        units, scale = _unit_scale(parts)
        return saturated(_length(units, self.p) * scale, units[0])

    def joint_lmo_and_dual(self, parts: Sequence[Tensor]) -> tuple[list[Tensor], Tensor]:
        """Return `-sign(d_i) (|d_i| / ||d||_q)^(q-1)` and `||d||_q`."""
        q = self.p / (self.p - 1)
        units, scale = _unit_scale(parts)
        length = _length(units, q)
        divisor = where(length == 0, 1.0, length)
        lmo = [
            (-torch.sign(x) * (x.abs() / _on(divisor, x)) ** (q - 1) + 0 * x).to(part.dtype)
            for x, part in zip(units, parts, strict=True)
        ]
        return lmo, saturated(length * scale, units[0])


# Entries that fit a processor's cache. Embeddings and heads are large, and on a CPU a new tensor of
# their size costs ten times the arithmetic on it.
_PIECE = 2**18


def _is_long(x: Tensor) -> bool:
    return x.device.type == "cpu" and x.numel() > _PIECE and x.is_contiguous()


def _largest(x: Tensor) -> Tensor:
    """Return the largest absolute value, 0 of none, 0-d; NaN where there is one."""
    if _is_long(x):
        return torch.stack(torch.aminmax(x)).abs().amax()
    return peak(x) if x.numel() else x.sum()


def _sum_of_ratios(x: Tensor, scale: Scalar) -> Tensor:
    """Return `sum |x_i| / scale`, 0-d."""
    if not _is_long(x):
        return x.abs().div_(scale).sum()
    scratch = x.new_empty(_PIECE)
    pieces = torch.split(x.view(-1), _PIECE)
    sums = [torch.div(p, scale, out=scratch[: p.numel()]).abs_().sum() for p in pieces]
    return torch.stack(sums).sum()


def _length(units: Sequence[Tensor], p: float) -> Scalar:
    """Return the p-norm of a concatenation whose largest entry is about 1, or 0."""
    return _of_all([_one_length(x, p) for x in units], p)


def _of_all(lengths: Sequence[Tensor], p: float) -> Scalar:
    """Return the p-norm of a concatenation from those of its parts, 0-d."""
    return known(lengths[0] if len(lengths) == 1 else _one_length(_together(lengths), p))


def _euclidean(x: Tensor) -> Tensor:
    return _one_length(as_working(x), 2)


def _one_length(x: Tensor, p: float) -> Tensor:
    if not x.numel():
        return x.sum()
    # On the CPU these two are several times faster than vector_norm.
    if p == 1:
        return x.abs().sum()
    if p == float("inf"):
        return peak(x)
    length: Tensor = torch.linalg.vector_norm(x, p)
    return length


def _stacked_lengths(x: Tensor, gain: float) -> tuple[Tensor, Tensor]:
    """Return `-gain x_i / ||x_i||_2` and `sum_i gain ||x_i||_2`, 0-d, for a stack `(k, ...)`.

    It makes a fifth of the calls that `vmap` would make; for small tensors the calls are the cost.
    """
    rows = as_working(x).reshape(len(x), -1)
    if host_knows(rows):
        length = torch.linalg.vector_norm(rows, dim=1, keepdim=True)
        values = length.view(-1).tolist()
        if all(_LOW <= value <= _HIGH for value in values):
            lmo = rows.mul(-gain / length).view(x.shape)
            return in_dtype(lmo, x.dtype), saturated(gain * sum(values), length)
    unit, scale = split_scale(rows, 1)
    length = torch.linalg.vector_norm(unit, dim=1, keepdim=True)
    lmo = unit.mul_(-gain / torch.where(length == 0, 1, length))
    return lmo.view(x.shape).to(x.dtype), saturate(saturate(gain * length * scale).sum())


@dataclass(frozen=True)
class Euclidean(VectorNorm):
    """The Euclidean norm `||w||_2`; on matrices the Frobenius norm. Its own dual.

    `lmo(d) = -d / ||d||_2`. Clipped gradient descent, LARS.

    Examples:
        >>> import torch
        >>> from normball.norms import Euclidean
        >>> Euclidean().lmo_and_dual(torch.tensor([3.0, 4.0]))
        (tensor([-0.6000, -0.8000]), tensor(5.))
    """

    def joint_norm(self, parts: Sequence[Tensor]) -> Tensor:
        """Return `||w||_2`."""
        units, length, scale = _units_and_length(parts)
        return saturated(length * scale, as_working(units[0]))

    def joint_lmo_and_dual(self, parts: Sequence[Tensor]) -> tuple[list[Tensor], Tensor]:
        """Return `-d / ||d||_2` and `||d||_2`."""
        units, length, scale = _units_and_length(parts)
        lmo = _times(units, -1 / where(length == 0, 1.0, length), parts)
        return lmo, saturated(length * scale, as_working(units[0]))

    def stacked_lmo_and_dual(self, d: Tensor) -> tuple[Tensor, Tensor]:
        """Return `-d_i / ||d_i||_2` for a stack `(k, ...)`, and the sum of dual norms."""
        return _stacked_lengths(d, 1.0)

    def lines(self, shape: torch.Size) -> tuple[frozenset[int], float]:
        """Return the whole tensor as one line, and 1."""
        return frozenset(range(len(shape))), 1.0


@dataclass(frozen=True)
class RMS(VectorNorm):
    """The root mean square `||w||_2 / sqrt(n)` over all `n` entries; for biases and gains.

    `lmo(d) = -sqrt(n) d / ||d||_2` and `||d||* = sqrt(n) ||d||_2`.

    Examples:
        >>> import torch
        >>> from normball.norms import RMS
        >>> d = torch.tensor([2.0, -2.0, 2.0, 2.0])
        >>> RMS().norm(d)
        tensor(2.)
        >>> RMS().lmo_and_dual(d)
        (tensor([-1.,  1., -1., -1.]), tensor(8.))
    """

    def joint_norm(self, parts: Sequence[Tensor]) -> Tensor:
        """Return `||w||_2 / sqrt(n)`."""
        units, length, scale = _units_and_length(parts)
        return saturated(length / _root(parts) * scale, as_working(units[0]))

    def joint_lmo_and_dual(self, parts: Sequence[Tensor]) -> tuple[list[Tensor], Tensor]:
        """Return `-sqrt(n) d / ||d||_2` and `sqrt(n) ||d||_2`."""
        units, length, scale = _units_and_length(parts)
        root = _root(parts)
        factor = -root / where(length == 0, 1.0, length)
        lmo = _times(units, factor, parts)
        return lmo, saturated(root * length * scale, as_working(units[0]))

    def stacked_lmo_and_dual(self, d: Tensor) -> tuple[Tensor, Tensor]:
        """Return `-sqrt(n) d_i / ||d_i||_2` for a stack `(k, ...)`, and the sum of dual norms."""
        return _stacked_lengths(d, math.sqrt(max(d.shape[1:].numel(), 1)))

    def lines(self, shape: torch.Size) -> tuple[frozenset[int], float]:
        """Return the whole tensor as one line, and `sqrt(n)`."""
        return frozenset(range(len(shape))), math.sqrt(max(shape.numel(), 1))


def _root(parts: Sequence[Tensor]) -> float:
    return math.sqrt(max(sum(x.numel() for x in parts), 1))


@dataclass(frozen=True)
class Sign(VectorNorm):
    """The largest entry in absolute value, times the fan-in when `normalized`.

    With `d_in = numel / shape[0]` (1 for vectors and for `normalized=False`):
    `||w|| = d_in max|w_ij|`, `lmo(d) = -sign(d) / d_in`, `||d||* = sum|d_ij| / d_in`. For output
    layers, whose sign step then changes each output by at most `max|input|`, and for signSGD.
    Several tensors together have no fan-in: only `normalized=False` takes them.

    Examples:
        >>> import torch
        >>> from normball.norms import Sign
        >>> d = torch.tensor([[3.0, -1.0], [2.0, 4.0]])
        >>> Sign().lmo(d)
        tensor([[-0.5000,  0.5000],
                [-0.5000, -0.5000]])
        >>> Sign().dual_norm(d), Sign(normalized=False).dual_norm(d)
        (tensor(5.), tensor(10.))
    """

    normalized: bool = True

    def joint_norm(self, parts: Sequence[Tensor]) -> Tensor:
        """Return `d_in max|w_ij|`."""
        fan_in = self._fan_in(parts)
        units, scale = _unit_scale(parts)
        # The largest entry of a unit is 1, or 0 if all entries are 0.
        return saturated(_length(units, float("inf")) * scale * fan_in, units[0])

    def joint_lmo_and_dual(self, parts: Sequence[Tensor]) -> tuple[list[Tensor], Tensor]:
        """Return `-sign(d) / d_in` and `sum|d_ij| / d_in`."""
        step, dual = self._step_and_dual(parts)
        return [torch.sign(x).mul_(_on(step, x)) for x in parts], dual

    def lmo_and_dual_into(self, d: Tensor, out: Tensor) -> tuple[Tensor, Tensor]:
        """Return `-sign(d) / d_in`, written to `out` without a temporary, and `||d||*`, 0-d."""
        step, dual = self._step_and_dual([d])
        return torch.sign(d, out=out).mul_(_on(step, d)), dual

    def _step_and_dual(self, parts: Sequence[Tensor]) -> tuple[Scalar, Tensor]:
        """Return `-1 / d_in`, NaN where an entry is not finite, and the dual norm, 0-d."""
        fan_in = self._fan_in(parts)
        work = [as_working(x) for x in parts]
        scale = _top([_largest(x) for x in work])
        sums = [_sum_of_ratios(x, _on(scale, x)) for x in work]
        total = known(sums[0] if len(sums) == 1 else _together(sums).sum())
        # sign(NaN) is 0, so the scale is NaN to make the result NaN.
        return 0 * scale - 1 / fan_in, saturated(total / fan_in * scale, work[0])

    def lines(self, shape: torch.Size) -> tuple[frozenset[int], float]:
        """Return every entry as a line, and `1 / d_in`."""
        fan_in = max(math.prod(shape[1:]), 1) if self.normalized else 1
        return frozenset(), 1 / fan_in

    def _onto_sphere(self, noise: Tensor) -> Tensor:
        return torch.where(noise < 0, -1.0, 1.0) / self._fan_in([noise])

    def _fan_in(self, parts: Sequence[Tensor]) -> int:
        if not self.normalized:
            return 1
        if len(parts) > 1:
            raise ValueError(
                f"{self} needs the fan-in of one tensor, got {len(parts)} together; use "
                "Sign(normalized=False)"
            )
        return max(math.prod(parts[0].shape[1:]), 1)


@dataclass(frozen=True)
class L1(VectorNorm):
    """The sum of absolute values `sum_i |w_i|`; its dual is the largest one.

    `lmo(d) = -sign(d_i*) e_i*` with `i*` the first entry of largest absolute value, `||d||* =
    max|d_i|`. Sparse steps, one entry at a time.

    Examples:
        >>> import torch
        >>> from normball.norms import L1
        >>> L1().lmo_and_dual(torch.tensor([1.0, -4.0, 2.0]))
        (tensor([0., 1., 0.]), tensor(4.))
    """

    def joint_norm(self, parts: Sequence[Tensor]) -> Tensor:
        """Return `sum_i |w_i|`."""
        units, scale = _unit_scale(parts)
        return saturated(_length(units, 1) * scale, units[0])

    def joint_lmo_and_dual(self, parts: Sequence[Tensor]) -> tuple[list[Tensor], Tensor]:
        """Return `-sign(d_i*) e_i*` and `max|d_i|`."""
        units, scale = _unit_scale(parts)
        flats = [x.reshape(-1) for x in units]
        peaks = [peak(x) if x.numel() else x.sum() for x in flats]
        winner = _together(peaks).argmax()
        lmo = []
        for number, (x, part) in enumerate(zip(flats, parts, strict=True)):
            step = x
            if x.numel():
                first = torch.arange(x.numel(), device=x.device) == x.abs().argmax()
                chosen = first & (winner == number).to(x.device)
                # A scale that is NaN makes all of it NaN.
                step = torch.where(chosen, -torch.sign(x), 0) + 0 * _on(scale, x)
            lmo.append(step.view(part.shape).to(part.dtype))
        return lmo, saturated(known(_together(peaks).amax()) * scale, units[0])
