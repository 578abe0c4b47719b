"""Names of settings: the keys of groups, the arguments of optimizers, and those of others."""

import difflib
import functools
import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ParamSpec

from torch import Tensor

_P = ParamSpec("_P")
_ALPHA = "use alpha, the weight of the new gradient: momentum 0.9 is alpha=0.1"
# Settings of other optimizers, and what to write instead.
_ELSEWHERE = {
    "weight_decay": "leave it out. What decays weights here is the ball of constrained=True, an "
    "argument of ClippedScion and Scion: the radius bounds the weights, and lr sets how fast they "
    "shrink",
    "learning_rate": "use lr",
    "momentum": _ALPHA,
    "beta": _ALPHA.replace("momentum", "beta"),
    "betas": _ALPHA.replace("momentum", "beta"),
    "beta1": _ALPHA.replace("momentum", "beta"),
    "dampening": "none is needed: the new gradient has the weight alpha",
    "scale": "use radius",
    "max_norm": "use rho, the threshold of the dual norm",
    "max_grad_norm": "use rho, the threshold of the dual norm",
    "eps": "no eps is needed: the minimiser at zero is zero",
    "foreach": "leave it out: small equal layers step together by themselves",
    "fused": "leave it out: small equal layers step together by themselves",
    "differentiable": "leave it out: autograd does not record steps",
    "ns_steps": "set it in the polar factor of the norm, such as Spectral(polar=NewtonSchulz())",
    "warmup_steps": "use a scheduler of torch, or none: the first steps are short by themselves",
    "adaptive": "these groups seem to be of SAM, whose own rho would be the threshold here: build "
    "SAM around Scion, which has none",
}
# Options of an optimizer that are no keys of its groups.
_OPTIONS = {
    "nesterov": "all groups look ahead, or none",
    "average": "all weights are averaged, or none",
    "lazy": "it holds for all groups",
    "maximize": "all groups ascend, or none",
    "constrained": "it holds for all groups",
    "capturable": "it holds for all groups",
}
# Keys of groups; a similar name is refused, because it is probably meant to be one of them.
_OURS = ("params", "norm", "radius", "lr", "alpha", "rho", "counted")
_PLAIN = (bool, int, float, str, type(None), Tensor)


def check(group: Mapping[str, Any], allowed: Iterable[str], threshold: bool) -> None:
    """Refuse keys of a parameter group that would be ignored, and are no labels.

    Labels are keys of other programs, such as `name`, `lr_scale` or a scheduler's `initial_lr`.
    Settings of other optimizers count as labels if they are switched off, such as a
    `weight_decay` of 0.

    Args:
        group: as a user gives it.
        allowed: the keys that this optimizer reads.
        threshold: whether it has a threshold, `rho`.

    Raises:
        TypeError: a key that resembles one of ours, a setting of another optimizer, or a label
            that a checkpoint cannot hold. The message says what to write instead.
    """
    allowed = sorted(allowed)
    # SAM has its own rho in the groups that it shares with the optimizer.
    sam = "adaptive" in group
    for key, value in group.items():
        if key in allowed and not (sam and key in ("rho", "alpha")):
            continue
        if sam and not threshold and key in ("rho", "adaptive"):
            continue
        clash = sam and key in ("rho", "alpha")
        hint = _ELSEWHERE["adaptive"] if clash else _hint(key, value, allowed)
        if hint is not None:
            raise TypeError(f"unknown key {key!r} in a parameter group: {hint}")
        if not _is_plain(value):
            raise TypeError(
                f"the group has {key!r} of type {type(value).__name__}, which a checkpoint cannot "
                "hold: a label is a number, a string, a tensor, or a list or dict of them"
            )


def _hint(key: Any, value: Any, allowed: list[str]) -> str | None:
    """Return what to write instead; None for a label."""
    if key in _ELSEWHERE or key in _OPTIONS:
        if value is None or (isinstance(value, int | float) and value == 0 and key != "momentum"):
            return None
        return _ELSEWHERE.get(key) or f"pass {key}= to the optimizer: {_OPTIONS[key]}"
    if key in _OURS:
        return f"groups of this optimizer have the keys {', '.join(allowed)}"
    if not isinstance(key, str):
        return f"keys are strings: {', '.join(allowed)}"
    parts = set(key.lower().split("_")) & (set(_OURS) - {"params", "lr"})
    near = difflib.get_close_matches(key.lower(), _OURS, n=1, cutoff=0.7) or sorted(parts)
    if not near:
        return None
    return f"did you mean {near[0]!r}?" if near[0] in allowed else f"keys: {', '.join(allowed)}"


def _is_plain(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    if isinstance(value, dict):
        return all(map(_is_plain, [*value, *value.values()]))
    return isinstance(value, _PLAIN)


def explained(init: Callable[_P, None]) -> Callable[_P, None]:
    """Decorate the constructor of an optimizer: an unknown argument gets a hint.

    Raises:
        TypeError: an argument that the constructor does not have. The message says what to use.
    """
    known = list(inspect.signature(init).parameters)[1:]

    @functools.wraps(init)
    def checked(*args: _P.args, **kwargs: _P.kwargs) -> None:
        for key in kwargs:
            if key in known:
                continue
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean {near[0]}=?" if near else f"its arguments: {', '.join(known)}"
            if key == "rho":
                hint = "this optimizer has no threshold; ClippedScion has one"
            raise TypeError(
                f"unexpected argument {key}={kwargs[key]!r}: {_ELSEWHERE.get(key) or hint}"
            )
        init(*args, **kwargs)

    return checked
