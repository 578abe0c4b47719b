"""Averaged weights in the optimizer's state, which can be swapped with the fast weights."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from normball import parallel
from normball._scalar import Flag, Scalar, clamp, of_kind
from normball.optim.estimate import State
from normball.optim.settings import AVERAGE_OUT as _OUT
from normball.optim.settings import AVERAGE_STEPS as _STEPS


class Average:
    """The running average `m_t = m_{t-1} + min(1, 1 / (c t)) (x_t - m_{t-1})` of the weights.

    `t` counts the steps that changed the weights. With `c = 1` the average is the mean of all
    iterates. With `c = 0.1` iterate `j` has a weight of about `(j / t)^9`, so the average covers
    the last tenth of a run of any length (Shamir and Zhang, 2013). It needs no schedule, and no
    length of the run in advance. It stays in every convex set that the iterates stay in.

    A parameter's state has it under `average`, in float32 for 16-bit weights. While the average is
    in the model, `average` holds the fast weights; for 16-bit weights, `fast` holds them.
    """

    def __init__(self) -> None:
        self.steps: Scalar = torch.zeros((), dtype=torch.float64)
        self.out = False
        """Whether the average is in the model, in place of the fast weights."""
        self._versions: dict[Tensor, int] = {}

    def begin(self, state: State, params: Iterable[Tensor]) -> None:
        """Make the averages of parameters that are about to move for the first time."""
        for p in params:
            if "average" not in state[p]:
                state[p]["average"] = p.detach().to(_dtype_of(p), copy=True)

    def fit(self, state: State, params: Iterable[Tensor]) -> None:
        """Move averages to the dtype and device of their parameters, which may have changed."""
        for p in params:
            kept = state.get(p, {}).get("average")
            if kept is not None:
                state[p]["average"] = kept.to(p.device, _dtype_of(p))

    def take_in(self, state: State, params: Iterable[Tensor], weight: float, moved: Flag) -> None:
        """Average the new weights in.

        Args:
            state: of the optimizer; a parameter without an average there has not moved yet.
            params: all of the optimizer, also those without a gradient in this step.
            weight: `c`.
            moved: whether this was a step.
        """
        self.steps = of_kind(self.steps, moved)
        self.steps += moved
        share = clamp(1 / (weight * clamp(self.steps, 1.0)), high=1.0)
        pairs = [
            (parallel.local(state[p]["average"]), parallel.local(p))
            for p in params
            if "average" in state.get(p, {})
        ]
        if isinstance(share, Tensor):
            share = share * moved
            for m, x in pairs:
                m.lerp_(x.to(m.dtype), share.to(m.device, m.dtype))
        elif moved:
            same = [(m, x) for m, x in pairs if m.dtype == x.dtype]
            if same:
                torch._foreach_lerp_([m for m, _ in same], [x for _, x in same], share)
            for m, x in pairs:
                if m.dtype != x.dtype:
                    m.lerp_(x.to(m.dtype), share)

    def put_out(self, state: State, params: Iterable[Tensor]) -> None:
        """Put the averages into the model, bit for bit; do nothing if they are there already."""
        if self.out:
            return
        for p in params:
            entry = state.get(p, {})
            if "average" in entry:
                x, m = parallel.local(p), parallel.local(entry["average"])
                if m.dtype == x.dtype:
                    _exchange(x, m)
                else:
                    entry["fast"] = p.detach().clone()
                    x.copy_(m)
                self._versions[p] = x._version
        self.out = True

    def put_back(self, state: State, params: Iterable[Tensor]) -> None:
        """Put the fast weights back, bit for bit; do nothing if they are in the model already.

        Raises:
            RuntimeError: the weights were written to in the meantime. Nothing is changed.
        """
        if not self.out:
            return
        found = [p for p in params if "average" in state.get(p, {})]
        for p in found:
            if self._versions.get(p, parallel.local(p)._version) != parallel.local(p)._version:
                raise RuntimeError(
                    f"a parameter of shape {tuple(p.shape)} was written to since eval(), in the "
                    "place of its average: call train() before loading or changing weights, or "
                    "load_state_dict() with the optimizer's state that belongs to them; to go on "
                    "from these weights, make a new optimizer"
                )
        for p in found:
            entry = state[p]
            x, m = parallel.local(p), parallel.local(entry["average"])
            fast = entry.pop("fast", None)
            if fast is None:
                _exchange(x, m)
            else:
                x.copy_(parallel.local(fast))
        self._versions.clear()
        self.out = False

    def save(self, groups: Iterable[dict[str, Any]]) -> None:
        """Write into the groups of a state the count, and whether the average is in the model."""
        for group in groups:
            group[_STEPS], group[_OUT] = float(self.steps), self.out

    def load(self, groups: Iterable[Mapping[str, Any]]) -> None:
        """Continue from the groups of a state; weights and averages are loaded where they were."""
        for group in groups:
            self.steps = float(group[_STEPS])
            self.out = group[_OUT]
        self._versions.clear()

    def __getstate__(self) -> dict[str, Any]:
        return {"steps": self.steps, "out": self.out, "_versions": {}}


def without_figures(state_dict: dict[str, Any]) -> dict[str, Any]:
    """Return a saved state without what `Average.save` wrote into its groups.

    Raises:
        ValueError: the count is not a count, or the place of the average is not True or False.
    """
    groups = state_dict.get("param_groups") if isinstance(state_dict, Mapping) else None
    if not isinstance(groups, list) or not all(isinstance(group, Mapping) for group in groups):
        return state_dict  # a later check refuses it
    for group in groups:
        if ("average" in group) != (_STEPS in group and _OUT in group):
            raise ValueError(
                f"a saved group has only some of 'average', {_STEPS!r} and {_OUT!r}: "
                "the state is not as it was saved"
            )
        steps, out = group.get(_STEPS, 0.0), group.get(_OUT, False)
        if not (isinstance(steps, int | float) and 0 <= steps < float("inf")):
            raise ValueError(f"{_STEPS}={steps!r} of the saved state must be a number from 0 on")
        if not isinstance(out, bool):
            raise ValueError(f"{_OUT}={out!r} of the saved state must be True or False")
        if (steps, out) != (groups[0].get(_STEPS, 0.0), groups[0].get(_OUT, False)):
            raise ValueError(
                f"the groups of the saved state differ in {_STEPS!r} or {_OUT!r}: the state is not "
                "as it was saved"
            )
    kept = [{k: v for k, v in g.items() if k not in (_STEPS, _OUT)} for g in groups]
    return {**state_dict, "param_groups": kept}


def check_fast(state_dict: Mapping[str, Any], groups: Sequence[Mapping[str, Any]]) -> None:
    """Refuse a state saved in eval mode that lacks the fast weights of 16-bit parameters.

    Such a state comes from a reader that asked for the entries of a state not in eval mode.

    Args:
        state_dict: a saved state, valid in everything else.
        groups: those of the optimizer that loads it.

    Raises:
        ValueError: a parameter has no entry `fast`.
    """
    for saved, own in zip(state_dict["param_groups"], groups, strict=True):
        for key, p in zip(saved["params"], own["params"], strict=True):
            entry = state_dict["state"].get(key) or {}
            lacks = "average" in entry and "fast" not in entry
            if saved.get(_OUT) and p.dtype.itemsize < 4 and lacks:
                raise ValueError(
                    "the state was saved after eval(), and lacks the fast weights of a parameter "
                    f"of shape {tuple(p.shape)}: save it after train(), or load it into the state "
                    "of an optimizer that is in eval mode too"
                )


def _dtype_of(p: Tensor) -> torch.dtype:
    return torch.float32 if p.dtype.itemsize < 4 else p.dtype


def _exchange(a: Tensor, b: Tensor) -> None:
    kept = a.clone()
    a.copy_(b)
    b.copy_(kept)
