"""The basis of a minimisation: a space with a norm, and a function on it."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from normball._numeric import inner
from normball.norms import Norm, Product, VectorNorm

Point = Tensor | Sequence[Tensor]
"""One tensor, or several: whatever the user's function takes."""
Function = Callable[[Any], Tensor]
Parts = list[Tensor]


class Space:
    """Tensors as one vector under one norm: a `Norm`, a `VectorNorm` over several, a `Product`.

    Raises:
        TypeError: `norm` is not a norm or does not fit the number of tensors, or `x0` holds
            something other than tensors of one real floating dtype.
        ValueError: a norm does not fit a shape, or there is no tensor at all.
    """

    def __init__(self, norm: Norm | Product, x0: Point) -> None:
        self._single = isinstance(x0, Tensor)
        parts = self._as_list(x0)
        if not parts:
            raise ValueError("x0 holds no tensor")
        for x in parts:
            if not isinstance(x, Tensor) or not x.is_floating_point():
                raise TypeError("x0 must be a tensor of a real floating dtype, or a sequence")
        if len({x.dtype for x in parts}) > 1:
            raise TypeError("the tensors of x0 must share one dtype")
        if not isinstance(norm, Norm | Product):
            raise TypeError(f"norm={norm!r} must be a norm, such as Euclidean()")
        if self._single and isinstance(norm, Product):
            raise TypeError("a Product norm takes a sequence of tensors: write [x0]")
        if not self._single and not isinstance(norm, VectorNorm | Product):
            raise TypeError(f"{norm} takes one tensor: give several a Product, one norm for each")
        self._norm = norm
        self.dtype = parts[0].dtype
        if isinstance(norm, Product):
            norm.check([x.shape for x in parts])
        else:
            for x in parts:
                norm.check(x.shape)

    @staticmethod
    def _as_list(x: Point) -> Parts:
        return [x] if isinstance(x, Tensor) else list(x)

    def unpack(self, x: Point) -> Parts:
        """Return detached copies of the tensors of `x`."""
        return [part.detach().clone() for part in self._as_list(x)]

    def pack(self, parts: Parts) -> Any:
        """Undo `unpack`: one tensor where `x0` was one, otherwise a list."""
        return parts[0] if self._single else parts

    def norm(self, parts: Parts) -> Tensor:
        """Return `||x||`, 0-d."""
        if isinstance(self._norm, Product):
            return self._norm.norm(parts)
        if isinstance(self._norm, VectorNorm):
            return self._norm.joint_norm(parts)
        return self._norm.norm(parts[0])

    def lmo_and_dual(self, parts: Parts) -> tuple[Parts, Tensor]:
        """Return the minimiser over the unit ball, cut like `parts`, and the dual norm, 0-d."""
        if isinstance(self._norm, Product):
            return self._norm.lmo_and_dual(parts)
        if isinstance(self._norm, VectorNorm):
            return self._norm.joint_lmo_and_dual(parts)
        lmo, dual = self._norm.lmo_and_dual(parts[0])
        return [lmo], dual


def dot(a: Parts, b: Parts) -> Tensor:
    """Return `<a, b>` over all tensors, 0-d."""
    return torch.stack([inner(x, y) for x, y in zip(a, b, strict=True)]).sum()


class Evaluation:
    """The value of a function at a point, and its gradient once it is asked for.

    Attributes:
        x: the point, detached.
        value: `fun(x)`; may be NaN or infinite.
        differentiable: whether autograd can trace the value back to `x`.
    """

    def __init__(self, fun: Function, space: Space, x: Parts) -> None:
        self.x = x
        self._leaves = [part.detach().clone().requires_grad_() for part in x]
        with torch.enable_grad():
            loss = fun(space.pack(self._leaves))
        if not isinstance(loss, Tensor) or loss.shape != () or loss.is_complex():
            got = f"{loss.dtype} of shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else loss
            raise TypeError(f"fun must return a real tensor without dimensions, got {got}")
        self.differentiable = loss.requires_grad
        self._loss: Tensor | None = loss
        self._grad: Parts = []
        self.value = float(loss.detach())

    @property
    def grad(self) -> Parts:
        """The gradient, of the shapes of `x`; of the same sample as the value."""
        if self._loss is not None:
            self._grad = self._differentiate(self._loss)
            self._loss = None
        return self._grad

    def _differentiate(self, loss: Tensor) -> Parts:
        if not loss.requires_grad:  # a constant
            return [torch.zeros_like(x) for x in self._leaves]
        found = torch.autograd.grad(loss, self._leaves, allow_unused=True)
        return [
            torch.zeros_like(x) if g is None else g
            for x, g in zip(self._leaves, found, strict=True)
        ]
