"""What a norm offers: its value, its dual, and the linear minimiser over its unit ball."""

import hashlib
from abc import ABC, abstractmethod

import torch
from torch import Tensor

from normball._numeric import as_working, saturate
from normball.polar import Polar

__all__ = ["Norm"]


class Norm(ABC):
    """A norm on tensors of one shape, with the oracle of its unit ball `{x : norm(x) <= 1}`.

    Objects are immutable, hashable, and equal if their `repr` is. The `repr` names the class and
    its attributes, and a checkpoint holds it: a norm of your own needs nothing for that, as long as
    its attributes have a `repr` without an address. A norm works on every floating
    dtype and device. Scalars are returned 0-d in float32 (float64 for float64 input). Results are
    finite over the whole range of the dtype: an overflow gives the dtype's largest number. Input
    with NaN or infinity gives NaN. Inputs are never changed.
    """

    def __repr__(self) -> str:
        shown = [f"{k}={_shown(v)}" for k, v in vars(self).items() if not k.startswith("_")]
        return f"{type(self).__name__}({', '.join(shown)})"

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and repr(self) == repr(other)

    def __hash__(self) -> int:
        return hash(repr(self))

    def check(self, shape: torch.Size) -> None:  # noqa: B027 (most norms fit every shape)
        """Raise ValueError if the norm does not fit `shape`; the message says what would fit."""

    @abstractmethod
    def norm(self, w: Tensor) -> Tensor:
        """Return `||w||`, 0-d.

        Raises:
            ValueError: the norm does not fit the shape of `w`.
        """

    @abstractmethod
    def lmo_and_dual(self, d: Tensor) -> tuple[Tensor, Tensor]:
        """Return `lmo(d)` and `dual_norm(d)`, 0-d, at the cost of one of them.

        Raises:
            ValueError: the norm does not fit the shape of `d`.
        """

    def lmo_and_dual_into(self, d: Tensor, out: Tensor) -> tuple[Tensor, Tensor]:
        """Return `lmo(d)`, written to `out`, and `dual_norm(d)`, 0-d.

        Args:
            d: not changed, unless it is `out`.
            out: of the shape, dtype and device of `d`; `d` itself, or memory that does not overlap.

        Raises:
            ValueError: the norm does not fit the shape of `d`; `out` is then as it was.
        """
        lmo, dual = self.lmo_and_dual(d)
        return out.copy_(lmo), dual

    def lmo(self, d: Tensor) -> Tensor:
        """Return the linear minimiser `argmin <d, x>` over the unit ball.

        It points against `d`, has norm 1, and the shape and dtype of `d`; it is 0 where `d` is 0.

        Raises:
            ValueError: the norm does not fit the shape of `d`.
        """
        return self.lmo_and_dual(d)[0]

    def dual_norm(self, d: Tensor) -> Tensor:
        """Return the dual norm `||d||* = max <d, x>` over the unit ball `= -<d, lmo(d)>`, 0-d.

        Raises:
            ValueError: the norm does not fit the shape of `d`.
        """
        return self.lmo_and_dual(d)[1]

    def sharp(self, d: Tensor) -> Tensor:
        """Return `-||d||* lmo(d)`, the direction of steepest descent, of the shape of `d`.

        `<d, sharp(d)> = ||sharp(d)||^2 = ||d||*^2`. It points along `d`.

        Raises:
            ValueError: the norm does not fit the shape of `d`.
        """
        lmo, dual = self.lmo_and_dual(as_working(d))
        limit = torch.finfo(d.dtype).max
        return (saturate(-dual * lmo)).clamp(-limit, limit).to(d.dtype)

    def stacked_lmo_and_dual(self, d: Tensor) -> tuple[Tensor, Tensor]:
        """Return the minimisers for a stack of tensors, each with its own ball, and the sum.

        Args:
            d: shape `(k, ...)`, `k` tensors of one shape along the first dimension.

        Returns:
            Their minimisers, of the shape of `d`, and the sum of their dual norms, 0-d.

        Raises:
            ValueError: the norm does not fit the shape of one tensor.
        """
        lmo, duals = torch.vmap(self.lmo_and_dual)(d)
        return lmo, saturate(duals.sum())

    def stacked_norm(self, w: Tensor) -> Tensor:
        """Return the largest norm of a stack `(k, ...)` of tensors, 0-d.

        Raises:
            ValueError: the norm does not fit the shape of one tensor.
        """
        return torch.vmap(self.norm)(w).amax()

    def lines(self, shape: torch.Size) -> tuple[frozenset[int], float] | None:  # noqa: ARG002
        """Describe a norm that measures lines: `||w|| = max_j ||w_j||_2 / gain`.

        Then `lmo(d)_j = -gain d_j / ||d_j||_2` and `||d||* = gain sum_j ||d_j||_2`. So a rank that
        holds parts of lines needs only the lengths of the whole lines from other ranks.

        Returns:
            The dimensions that run along a line (none: every entry is one) and the gain of a tensor
            of this shape; None for a norm of another kind.
        """
        return None

    def polar_factor(self, shape: torch.Size) -> tuple[Polar, float] | None:  # noqa: ARG002
        """Describe a norm of one matrix whose minimiser is a multiple of the polar factor.

        Then `lmo(d) = -gain U V^T` and `||d||* = gain <d, U V^T>`. So ranks that hold parts of a
        matrix can compute it from the sum of their Gram matrices.

        Returns:
            What computes the factor, and the gain of a matrix of this shape; None for a norm of
            another kind, and for several matrices.
        """
        return None

    def free(self, shape: torch.Size) -> frozenset[int]:  # noqa: ARG002
        """Return the dimensions along which a tensor is a stack of tensors with a ball each."""
        return frozenset()

    def flops(self, shape: torch.Size) -> float:
        """Return about how many operations a minimiser takes, to divide the work among ranks."""
        return 8.0 * shape.numel()

    @property
    def synchronises(self) -> bool:
        """Whether a minimiser waits for the device where that is not the CPU."""
        return False

    def init_(
        self, w: Tensor, radius: float = 1.0, generator: torch.Generator | None = None
    ) -> Tensor:
        """Fill `w` in place with a random point of the sphere `||w|| = radius`, and return it.

        Args:
            w: the tensor to fill.
            radius: of the sphere; positive.
            generator: source of the randomness; torch's global one when None.

        Raises:
            ValueError: the norm does not fit the shape of `w`, or `radius` is not positive.
        """
        self.check(w.shape)
        if not 0 < radius < float("inf"):
            raise ValueError(f"radius={radius} must be positive and finite")
        dtype = torch.float64 if w.dtype == torch.float64 else torch.float32
        noise = torch.empty(w.shape, dtype=dtype, device=w.device).normal_(generator=generator)
        with torch.no_grad():
            return w.copy_(radius * self._onto_sphere(noise))

    def _onto_sphere(self, noise: Tensor) -> Tensor:
        """Map Gaussian noise to a point of norm 1; the minimiser of a random direction is one."""
        return -self.lmo(noise)


def _shown(value: object) -> str:
    """Return the `repr` of an attribute; of a tensor, one that differs where a value does."""
    if not isinstance(value, Tensor):
        return repr(value)
    values = value.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes()
    digest = hashlib.sha256(values).hexdigest()[:16]
    return f"<tensor {tuple(value.shape)}, {value.dtype}, {digest}>"
