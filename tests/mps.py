"""A device like Apple's GPU, which has neither float64 nor an eigendecomposition.

Its tensors say that they lie on `mps` and compute on the CPU. What the real device refuses, they
refuse: to be float64, `linalg.eigh`, and arithmetic with a tensor of the CPU that is no scalar.
"""

from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_flatten, tree_map, tree_map_only

MPS, _CPU = torch.device("mps"), torch.device("cpu")
_LACKING = {torch.ops.aten._linalg_eigh.default}
_MOVES = {torch.ops.aten.copy_.default, torch.ops.aten._foreach_copy_.default}


class OnMPS(Tensor):
    """A tensor whose values lie in `inner`, on the CPU."""

    inner: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor) -> "OnMPS":
        if inner.dtype in (torch.float64, torch.complex128):
            raise TypeError(f"the device mps has no {inner.dtype}")
        made: OnMPS = torch.Tensor._make_wrapper_subclass(
            cls,
            inner.shape,
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
        )
        made.inner = inner.detach()
        return made

    def __repr__(self) -> str:
        return f"OnMPS({self.inner})"

    @property
    def device(self) -> torch.device:
        return MPS

    @classmethod
    def __torch_dispatch__(
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        given, _ = tree_flatten((args, kwargs))
        if func in _LACKING:
            raise NotImplementedError(f"the device mps has no {func}")
        if func not in _MOVES and any(type(x) is Tensor and x.dim() for x in given):
            raise RuntimeError(f"{func} of tensors on mps and on the CPU")
        ours = {id(x.inner): x for x in given if isinstance(x, OnMPS)}
        inner_args, inner_kwargs = tree_map_only(OnMPS, lambda x: x.inner, (args, kwargs or {}))
        out = func(*inner_args, **inner_kwargs)
        if func in _MOVES and not isinstance(args[0], OnMPS):
            return out
        return tree_map_only(Tensor, lambda x: ours[id(x)] if id(x) in ours else OnMPS(x), out)


class StandIn(TorchFunctionMode):
    """Within, tensors can be made on `torch.device("mps")`, moved there, and fetched from there."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        first = args[0] if args else None
        if func is Tensor.tolist and isinstance(first, OnMPS):
            return first.inner.tolist()
        if func is Tensor.cpu:
            func, args = Tensor.to, (first, _CPU)
        if func is Tensor.to and isinstance(args[-1], Tensor) and len(args) == 2:
            args = (first, args[1].device, args[1].dtype)
        devices = {torch.device(x) for x in tree_flatten((args, kwargs))[0] if _is_device(x)}
        if func is Tensor.to and isinstance(first, OnMPS) and _CPU in devices:
            return func(first.inner.clone(), *args[1:], **kwargs)
        if MPS not in devices:
            return func(*args, **kwargs)
        args, kwargs = tree_map(lambda x: _CPU if _is_device(x) else x, (args, kwargs))
        made = func(*args, **kwargs)
        return OnMPS(made) if isinstance(made, Tensor) and not isinstance(made, OnMPS) else made


def _is_device(x: Any) -> bool:
    return isinstance(x, torch.device) or (isinstance(x, str) and x in ("cpu", "mps"))
