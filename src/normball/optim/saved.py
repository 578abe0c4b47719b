"""The state of an optimizer: what is saved, and how it is loaded."""

from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from normball.optim import checkpoint, validate
from normball.optim.average import Average, check_fast, without_figures
from normball.optim.estimate import Estimator
from normball.optim.grouped import Grouped, Remembered
from normball.optim.settings import AVERAGE_OUT, AVERAGE_STEPS, ENTERED, ROUNDINGS
from normball.optim.start import load_entered, save_entered


class Saved(Grouped):
    """An optimizer whose state loads bit for bit, with checks before anything changes."""

    _estimator: Estimator
    _average: Average | None

    # The attributes that a copy of the optimizer keeps.
    _own: tuple[str, ...] = (
        "_settings", "_geometry", "_estimator", "_average", "_reuse_grad", "_record", "_stages",
        "_copies", "_shapes", "_titles", "_watch",
    )  # fmt: skip

    @property
    def _figures(self) -> list[str]:
        """The keys of a saved group besides its settings."""
        averaged = [AVERAGE_STEPS, AVERAGE_OUT] if self._average is not None else []
        rounded = [ROUNDINGS] if self._estimator.dither is not None else []
        return averaged + rounded + ([ENTERED] if self._constrained else [])

    @property
    def _constrained(self) -> bool:
        return self._settings.constrained

    def state_dict(self) -> dict[str, Any]:
        """Return the state as tensors, numbers and strings; a norm is stored as its repr.

        With `average=` it holds the averaged weights, or after `eval()` the fast weights (both for
        16-bit weights). Save it together with the model. If that is done after `eval()`, both load
        in that mode, and `train()` puts the fast weights back.
        """
        held = set(self._params())
        gone = [p for p in self.state if isinstance(p, Tensor) and p not in held]
        out = {p: self.state.pop(p) for p in gone}
        try:
            self._mend_names()
            state = checkpoint.plain(super().state_dict())
        finally:
            self.state.update(out)  # of parameters that were taken out of their lists
        if self._average is not None:
            self._average.save(state["param_groups"])
        if self._constrained:
            save_entered(self.param_groups, state["param_groups"], self._known.inside)
        # Also 0 where nothing is rounded: readers that ask for the keys of another optimizer, as
        # those of torch.distributed.checkpoint do, then find it in every state.
        dither = self._estimator.dither
        steps = 0 if dither is None else int(dither.steps)
        state["param_groups"] = [g | {ROUNDINGS: steps} for g in state["param_groups"]]
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from `state_dict`, bit for bit.

        The momentum is converted to the format of this optimizer's state, rounded to the nearest.
        If `lr` or `rho` is a tensor here, that tensor stays and gets the saved value.

        Raises:
            TypeError: a setting is not a number.
            ValueError: the state belongs to another optimizer, another norm, other shapes or
                another order of the parameters' names; a setting is out of its range; or only one
                of state and optimizer measures `rho`. Nothing is loaded.
        """
        if not isinstance(state_dict, dict):
            raise ValueError(f"this is no optimizer state: a dict, not {type(state_dict).__name__}")
        tensors = [
            {name: value for name, value in group.items() if isinstance(value, Tensor)}
            for group in self.param_groups
        ]
        read: dict[str, Any] = {}

        def check(_: Optimizer, state_dict: dict[str, Any]) -> dict[str, Any]:
            read.update(state_dict)
            return self._checked(state_dict)

        def finish(_: Optimizer) -> None:
            for group, own in zip(self.param_groups, tensors, strict=True):
                # A captured graph reads the tensors it has seen.
                group.update({n: tensor.fill_(group[n]) for n, tensor in own.items() if n in group})
            self._loaded(read)

        with checkpoint.between_hooks(self, check, finish):
            super().load_state_dict(state_dict)

    def _checked(self, state_dict: dict[str, Any]) -> dict[str, Any]:
        """Return a state as torch loads it, or raise what `load_state_dict` says."""
        whole, state_dict = state_dict, without_figures(state_dict)
        for index, own in enumerate(self.param_groups):
            for name, p in zip(self._names(index, own), own["params"], strict=True):
                self._estimator.check_layout(name, p)
        groups = checkpoint.check(state_dict, self.param_groups)
        check_fast(whole, self.param_groups)
        for group in groups:
            self._settings.check_values(group)
        self._settings.check_common(groups)
        for group in groups:
            radius = group.pop(ENTERED, None)
            if radius is not None:
                validate.check_number(f"the saved {ENTERED}", radius, low=0)
            steps = group.pop(ROUNDINGS, None)
            if steps is not None:
                validate.check_number(f"the saved {ROUNDINGS}", steps, low=0)
        return {"state": state_dict["state"], "param_groups": groups}

    def _loaded(self, state_dict: dict[str, Any]) -> None:
        """Take from a state what torch did not load, or changed."""
        self._mark()
        load_entered(self.param_groups, state_dict, self._known.inside)
        indices = (i for group in state_dict["param_groups"] for i in group["params"])
        for index, p in zip(indices, self._params(), strict=True):
            # torch has cast it to the parameter's dtype; take the saved values instead.
            for name, value in (state_dict["state"].get(index) or {}).items():
                if name not in checkpoint.KEPT:
                    continue  # a wrapper's own
                kept = self._estimator.converted if name == "momentum" else _copied
                self.state[p][name] = kept(p, value)
        if self._estimator.dither is not None:
            steps = [group.get(ROUNDINGS) or 0 for group in state_dict["param_groups"]]
            self._estimator.dither.steps.fill_(max(steps, default=0))
        if self._average is not None:
            self._average.load(state_dict["param_groups"])

    def __getstate__(self) -> dict[str, Any]:
        state = super().__getstate__()
        return (
            state
            | {name: getattr(self, name) for name in self._own}
            | {
                "_known": Remembered(),
            }
        )


def _copied(p: Tensor, value: Tensor) -> Tensor:
    return value.to(p.device, copy=True)
