"""Checks of what an optimizer accepts, made before anything is changed."""

import difflib
import math
import re
import sys
from collections.abc import Iterable, Set
from numbers import Real
from types import FrameType

import torch
from torch import Tensor
from torch.nn.parameter import is_lazy

import normball.norms as norms
from normball import parallel
from normball._numeric import repeats
from normball.norms import Norm


def check_state_dtype(dtype: torch.dtype | None) -> None:
    """Raise ValueError for a dtype in which no momentum is kept."""
    known = (None, torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int8)
    if dtype not in known:
        raise ValueError(
            f"state_dtype={dtype} must be a floating dtype of at least 16 bits, or torch.int8 for "
            "8 bits in blocks with a common exponent"
        )


def check_counted(value: object, stages: object) -> bool:
    """Return whether a group counts in sums over stages.

    Raises:
        TypeError: `value` is not a bool.
        ValueError: it is False, and there is no other stage.
    """
    if not isinstance(value, bool):
        raise TypeError(f"counted={value!r} must be True or False")
    if not value and stages is None:
        raise ValueError("counted=False is for copies that another stage counts: pass stages=")
    return value


def check_replaced(params: Iterable[Tensor], shapes: Set[torch.Size]) -> None:
    """Raise ValueError if a wrapper has replaced matrices by a vector of layers laid end to end."""
    held = {p.shape for p in params}
    matrices, now = (any(len(shape) > 1 for shape in known) for known in (shapes, held))
    if matrices and not now and held - shapes:
        raise ValueError(
            f"the groups now hold vectors alone, of the shapes {sorted(map(tuple, held))}, and "
            "were given matrices: a wrapper has laid layers end to end, as DeepSpeed's ZeRO does. "
            "Use fully_shard, DDP or ZeRO stage 0"
        )


def check_wrapper(stages: object) -> None:
    """Refuse to be built by torch's ZeRO without `stages`: each rank would clip by its own layers.

    Raises:
        TypeError: ZeroRedundancyOptimizer calls the constructor.
    """
    module = sys.modules.get("torch.distributed.optim.zero_redundancy_optimizer")
    if module is None or stages is not None:
        return
    frame: FrameType | None = sys._getframe()
    while frame is not None:
        if isinstance(frame.f_locals.get("self"), module.ZeroRedundancyOptimizer):
            raise TypeError(
                "ZeroRedundancyOptimizer gives every rank parameters of its own, so the dual norm "
                "has to be summed over ranks: pass functools.partial(ClippedScion, "
                "stages=torch.distributed.group.WORLD) as its optimizer_class"
            )
        frame = frame.f_back


def check_number(
    name: str,
    value: object,
    *,
    low: float,
    high: float = math.inf,
    open_low: bool = False,
    slack: float = 0.0,
) -> float:
    """Return `value` as a float of the range `[low, high]` (`(low, high]` when `open_low`).

    A value below a closed end by at most `slack` counts as that end.

    Raises:
        TypeError: it is not a real number.
        ValueError: it is NaN, infinite or outside.
    """
    if isinstance(value, (Tensor, bool)) or not isinstance(value, Real):
        raise TypeError(f"{name}={value!r} must be a plain number, not {type(value).__name__}")
    number = float(value)
    if not open_low and low - slack <= number < low:
        number = low
    inside = low < number <= high if open_low else low <= number <= high
    if not inside or number == math.inf:
        left = f"({low:g}" if open_low else f"[{low:g}"
        right = f"{high:g}]" if math.isfinite(high) else "inf)"
        raise ValueError(f"{name}={number!r} must lie in {left}, {right}")
    return number


def check_scalar(name: str, value: Tensor) -> None:
    """Refuse a tensor that cannot stand for a number; its value is not read.

    Raises:
        TypeError: it is not of a floating dtype.
        ValueError: it has several entries.
    """
    if not value.is_floating_point():
        raise TypeError(f"{name} is a tensor of dtype {value.dtype}: give it a floating dtype")
    if value.numel() != 1:
        raise ValueError(
            f"{name} is a tensor of the shape {tuple(value.shape)}: use a 0-d tensor, such as "
            "torch.tensor(0.01)"
        )


def check_norm(norm: object) -> Norm:
    """Return `norm` if it is a norm on single tensors that a checkpoint can name.

    Raises:
        TypeError: it is not, or it cannot be hashed, or its `repr` has an address.
    """
    if isinstance(norm, Norm):
        if type(norm).__hash__ is None:
            raise TypeError(
                f"{norm!r} cannot be hashed: write @dataclass(frozen=True) above its class"
            )
        if not torch.compiler.is_compiling() and re.search(r" at 0x[0-9a-f]{4,}", repr(norm)):
            raise TypeError(
                f"the repr of {norm!r} has an address, so no checkpoint of it could be loaded "
                "again: let its attributes be numbers, strings, tensors or norms, or define "
                "__repr__"
            )
        return norm
    known = sorted(name for name in norms.__all__ if name not in ("Norm", "Product"))
    lower = {name.lower(): name for name in known}
    near = difflib.get_close_matches(str(getattr(norm, "__name__", norm)).lower(), lower, n=1)
    hint = f"did you mean {lower[near[0]]}()?" if near else f"known norms: {', '.join(known)}"
    raise TypeError(f"norm={norm!r} is not an object of normball.norms: {hint}")


def check_parameter(name: str, parameter: object, norm: Norm) -> None:
    """Refuse a parameter that a step on a norm ball cannot train.

    Raises:
        TypeError: not a tensor, complex or not floating, or sharded or flattened by a wrapper.
        ValueError: lazy, sparse, not a leaf, or of a shape that the norm does not fit.
    """
    if not isinstance(parameter, Tensor):
        raise TypeError(
            f"{name} is a {type(parameter).__name__}, not a tensor: give param_groups(model), or a "
            "model's parameters()"
        )
    if is_lazy(parameter):
        raise ValueError(f"{name} has no shape yet: run a batch through its lazy module first")
    if parallel.is_flat(parameter):
        raise TypeError(
            f"{name} is a flat shard, in which the layers' matrices are lost (FSDP1, ZeRO): use "
            "FSDP2 (torch.distributed.fsdp.fully_shard), whose shards keep their shapes, or DDP"
        )
    parallel.check_placements(name, parameter)
    if parameter.is_complex():
        raise TypeError(f"{name} is complex: optimize torch.view_as_real of it, shape (..., 2)")
    if not parameter.is_floating_point():
        raise TypeError(f"{name} has dtype {parameter.dtype}: only floating dtypes have gradients")
    if parameter.dtype.itemsize < 2:
        raise TypeError(
            f"{name} has dtype {parameter.dtype}, which is for storage and products: a step is "
            "below its resolution. Train weights of 16 bits or more, and cast them to 8"
        )
    if parameter.layout != torch.strided:
        raise ValueError(f"{name} has layout {parameter.layout}: use a dense (strided) tensor")
    if not parameter.is_leaf and not parameter.retains_grad:
        raise ValueError(f"{name} is not a leaf: no gradient is kept for it")
    if repeats(parameter):
        raise ValueError(
            f"{name} has several entries in one place of memory, as expand() makes them, so a step "
            "would move them several times: pass a contiguous() copy, or the tensor that was "
            "expanded"
        )
    check_shape(name, parameter, norm)


def check_shape(name: str, parameter: Tensor, norm: Norm) -> None:
    """Raise ValueError, with the name, where the norm does not fit the shape."""
    try:
        norm.check(parameter.shape)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None
