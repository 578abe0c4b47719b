"""Where the parameters of a model live: names, owners, parametrised and wrapped modules."""

from dataclasses import dataclass, replace

import torch
from torch import nn
from torch.nn.utils.parametrizations import _WeightNorm
from torch.nn.utils.parametrize import ParametrizationList, is_parametrized

# Path components that wrappers add: torch.compile, data-parallel modules, FSDP, checkpointing.
_WRAPPERS = {"_orig_mod", "module", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}


@dataclass(frozen=True)
class Slot:
    """A place in a model that holds a parameter; a shared parameter has several."""

    name: str
    """The path from the model, without wrappers."""
    module: nn.Module
    """The module the tensor belongs to; for a parametrised tensor the one that has it."""
    tensor: str
    """The name of the tensor in the module. `weight_v` and `weight_g` are direction and length of a
    weight-normed `weight`; the original of any other parametrised tensor has its name."""
    parameter: nn.Parameter

    @property
    def shape(self) -> torch.Size:
        """The shape of the parameter."""
        return self.parameter.shape


def slots_of(model: nn.Module) -> list[Slot]:
    """Return all places of all parameters, in the order of `model.named_parameters()`."""
    found: list[Slot] = []
    owners: dict[int, tuple[nn.Module, str]] = {}
    for path, module in model.named_modules(remove_duplicate=False):
        if is_parametrized(module):
            for tensor, parametrization in module.get_submodule(
                "parametrizations"
            ).named_children():
                owners[id(parametrization)] = (module, tensor)
        for leaf, parameter in module.named_parameters(recurse=False, remove_duplicate=False):
            owner, tensor = module, leaf
            if isinstance(module, ParametrizationList):
                owner, tensor = owners[id(module)]
                tensor = _original(module, tensor, leaf)
            found.append(Slot(f"{path}.{leaf}" if path else leaf, owner, tensor, parameter))
    names = [_unwrapped(slot.name) for slot in found]
    if len(set(names)) < len(names):  # the model calls a module of its own like a wrapper
        return found
    return [replace(slot, name=name) for slot, name in zip(found, names, strict=True)]


def _original(parametrization: ParametrizationList, tensor: str, leaf: str) -> str:
    if leaf == "original":
        return tensor
    if any(isinstance(step, _WeightNorm) for step in parametrization):
        return {"original0": f"{tensor}_g", "original1": f"{tensor}_v"}.get(leaf, leaf)
    return f"{tensor}.{leaf}"


def _unwrapped(path: str) -> str:
    *modules, leaf = path.split(".")
    return ".".join([part for part in modules if part not in _WRAPPERS] + [leaf])
