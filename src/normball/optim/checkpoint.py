"""State that loads with `weights_only=True`, and the checks on loading."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from numbers import Real
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from normball.norms import Norm
from normball.optim import packed

# What the state has of a parameter. Wrappers add entries of their own, which are kept as they are.
KEPT = ("momentum", "average", "fast")


def plain(state_dict: dict[str, Any]) -> dict[str, Any]:
    """Replace norms by their repr, and numbers of tensors and other libraries by Python's own."""
    groups = [{k: _plain_value(v) for k, v in g.items()} for g in state_dict["param_groups"]]
    return state_dict | {"param_groups": groups}


def _plain_value(value: Any) -> Any:
    if isinstance(value, Norm):
        return repr(value)
    if isinstance(value, Tensor):
        return value.item()
    if isinstance(value, Real) and not isinstance(value, bool | int | Tensor):
        return float(value)
    return value


@contextmanager
def between_hooks(
    optimizer: Optimizer,
    check: Callable[[Optimizer, dict[str, Any]], dict[str, Any]],
    finish: Callable[[Optimizer], None],
) -> Iterator[None]:
    """Run `check` after the users' hooks before loading, `finish` before their hooks after it.

    The users' first hooks may change what is read, and their last ones what was loaded.
    """
    hooks = (
        optimizer.register_load_state_dict_pre_hook(check),
        optimizer.register_load_state_dict_post_hook(finish, prepend=True),
    )
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def check(state_dict: Mapping[str, Any], groups: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the saved groups with norms as objects again.

    Args:
        state_dict: what `state_dict()` of an optimizer gave.
        groups: those of the optimizer that loads it.

    Raises:
        ValueError: number of groups, keys, norms, numbers of parameters or shapes differ, or the
            same names are in another order.
    """
    try:
        saved_groups, saved_state = state_dict["param_groups"], state_dict["state"]
    except (KeyError, TypeError):
        raise ValueError("this is no optimizer state: it lacks 'state' or 'param_groups'") from None
    if not isinstance(saved_groups, list) or not isinstance(saved_state, Mapping):
        raise ValueError(
            "this is no optimizer state: 'param_groups' must be a list and 'state' a dict, got "
            f"{type(saved_groups).__name__} and {type(saved_state).__name__}"
        )
    if len(saved_groups) != len(groups):
        raise ValueError(
            f"the saved state has {len(saved_groups)} parameter groups, this optimizer "
            f"{len(groups)}: build it from the same groups"
        )
    for index, (saved, own) in enumerate(zip(saved_groups, groups, strict=True)):
        _check_group(index, saved, own, saved_state)
    keys = [key for saved in saved_groups for key in saved["params"]]
    # Wrappers keep entries under a name of their own, where parameters have numbers.
    others = set(saved_state) - set(keys)
    if keys and isinstance(keys[0], int):
        others = {key for key in others if not isinstance(key, str)}
    if len(set(keys)) != len(keys) or others:
        raise ValueError(
            f"the saved state names the parameters {keys} and holds {list(saved_state)}: each must "
            "be named once"
        )
    _check_order(saved_groups, groups)
    kept = ("norm", "param_names")
    return [
        {**saved, **{key: own[key] for key in kept if key in own}}
        for saved, own in zip(saved_groups, groups, strict=True)
    ]


def _check_order(saved: list[Mapping[str, Any]], groups: list[dict[str, Any]]) -> None:
    """Refuse a state of the same names in another order, whose momenta would change places.

    Other names are accepted: a wrapper may have added a prefix.
    """
    before, now = (
        [name for group in side for name in group.get("param_names", ())]
        for side in (saved, groups)
    )
    for old, new in zip(before, now, strict=False):
        if old != new and sorted(before) == sorted(now):
            raise ValueError(
                f"the state was saved with {old} where this optimizer has {new}: build it from the "
                "parameters in the saved order"
            )


def _check_group(
    index: int, saved: Mapping[str, Any], own: Mapping[str, Any], state: Mapping[Any, Any]
) -> None:
    if not isinstance(saved, Mapping):
        raise ValueError(f"group {index} of the saved state is a {type(saved).__name__}, no dict")
    missing = {"params", "norm", "radius", "lr", "alpha", "rho"} & set(own) - set(saved)
    if missing:
        raise ValueError(
            f"group {index} of the saved state lacks {sorted(missing)}: it was saved by "
            "another optimizer"
        )
    if ("average" in saved) != ("average" in own):
        which, other = ("state", "optimizer")[:: 1 if "average" in saved else -1]
        raise ValueError(
            f"group {index}: the {which} has an average of the weights, the {other} has none: "
            f"build the optimizer with average={saved.get('average')!r}, as the state was saved"
        )
    if "rho" in saved and "rho" not in own:
        raise ValueError(f"group {index} was saved with a rho, which this optimizer has not")
    if saved["norm"] != repr(own["norm"]):
        raise ValueError(
            f"group {index} was saved with the norm {saved['norm']}, this optimizer has "
            f"{own['norm']!r}: build it with the saved one"
        )
    _check_settings(index, saved, own)
    if len(saved["params"]) != len(own["params"]):
        raise ValueError(
            f"group {index} was saved with {len(saved['params'])} parameters, this optimizer "
            f"has {len(own['params'])}"
        )
    names = own.get("param_names") or [f"parameter {i}" for i in range(len(own["params"]))]
    for name, key, param in zip(names, saved["params"], own["params"], strict=True):
        entry = state.get(key) or {}
        if not isinstance(entry, Mapping):
            raise ValueError(f"the saved state of {name} of group {index} is {entry!r}, no dict")
        kept = KEPT if "average" in own else KEPT[:1]
        foreign = entry and saved["alpha"] != 1 and not set(entry) & set(kept)
        if foreign or set(entry) & set(KEPT[len(kept) :]):
            raise ValueError(
                f"{name} of group {index} was saved with {sorted(map(str, entry))}: this optimizer "
                f"keeps {' and '.join(map(repr, kept[:2]))} only, so another one saved it"
            )
        for what, value in entry.items():
            if what not in kept:
                continue
            if not isinstance(value, torch.Tensor) or value.shape != _shape_of(value, param):
                is_tensor = isinstance(value, torch.Tensor)
                found = tuple(value.shape) if is_tensor else type(value).__name__
                raise ValueError(
                    f"the saved {what} of {name} of group {index} is {found}, the parameter "
                    f"has the shape {tuple(param.shape)}"
                )


def _shape_of(value: Tensor, param: Tensor) -> torch.Size:
    """Return the shape that a saved tensor of a parameter has."""
    is_packed = value.dtype == torch.int8 and param.ndim > 1
    return packed.shape_of(param.shape) if is_packed else param.shape


def _check_settings(index: int, saved: Mapping[str, Any], own: Mapping[str, Any]) -> None:
    """Refuse names of a wrong type, and switches that are not True or False."""
    where = f"group {index} of the saved state has"
    params = saved["params"]
    # torch.distributed.checkpoint has names of parameters where torch has numbers.
    if not isinstance(params, list) or any(type(key) not in (int, str) for key in params):
        raise ValueError(f"{where} the params {params!r}: a list of numbers or names is expected")
    names = saved.get("param_names")
    # If the stages of a pipeline share a flat state, the names are those that another rank saved.
    if names is not None and not (
        isinstance(names, list)
        and all(isinstance(name, str) for name in names)
        and (len(names) == len(own["params"]) or all(isinstance(key, str) for key in params))
    ):
        raise ValueError(f"{where} the param_names {names!r}: one name for each parameter")
    for key, value in own.items():
        if isinstance(value, bool) and not isinstance(saved.get(key, value), bool):
            raise ValueError(f"{where} {key}={saved[key]!r}, which must be True or False")
