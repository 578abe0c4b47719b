"""A step recorded and run again without its Python, as a CUDA graph does, on any device."""

import contextlib
import sys
from unittest import mock

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

WAITS = ("_local_scalar_dense", "nonzero", "_linalg_eigh", "_linalg_svd", "equal", "is_nonzero")


def storages(*trees):
    return {x.untyped_storage()._cdata for x in tree_leaves(trees) if isinstance(x, Tensor)}


@contextlib.contextmanager
def flags_unknown():
    """A device whose flags the host does not know without waiting, played on the CPU."""
    modules = [m for name, m in sys.modules.items() if name.startswith("normball.")]
    with contextlib.ExitStack() as stack:
        for module in modules:
            if hasattr(module, "host_knows"):
                stack.enter_context(mock.patch.object(module, "host_knows", return_value=False))
        yield


class Synchronisations(TorchDispatchMode):
    """Count the operations that would wait for a device."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func.overloadpacket.__name__ in WAITS
        return func(*args, **(kwargs or {}))


class Tape(TorchDispatchMode):
    """Record every operation with the memory it reads and writes; `replay` runs them again.

    An operation that waits for a device, or moves data to another, cannot be captured.
    """

    def __init__(self):
        super().__init__()
        self.calls = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = func.overloadpacket.__name__
        assert name not in WAITS, f"{name} waits for the device"
        result = func(*args, **kwargs)
        devices = {x.device for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)}
        if name in ("_to_copy", "copy_"):
            moved = {x.device for x in tree_leaves(result) if isinstance(x, Tensor)} | devices
            assert len(moved) == 1, f"{name} between devices: {moved}"
        self.calls.append((func, args, kwargs, result))
        return result

    def replay(self):
        for func, args, kwargs, result in self.calls:
            again = func(*args, **kwargs)
            if storages(result) & storages(args, kwargs):
                continue  # a view, or written in place
            for out, new in zip(tree_leaves(result), tree_leaves(again), strict=True):
                if isinstance(out, Tensor):
                    out.copy_(new)
