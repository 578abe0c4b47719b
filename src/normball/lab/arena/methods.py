"""The methods of the arena: each as its authors recommend, with one number left to tune."""

import math
from collections.abc import Callable, Iterable, Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass
from io import StringIO
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from normball import ClippedScion, Scion, param_groups
from normball.lab.arena.training import Schedule
from normball.lab.errors import LabError, look_up

_DECAY = 0.1
_BETAS = (0.9, 0.95)
_WARM_UP = 0.05
# The default step of ClippedScion, which belongs to the radii of param_groups.
_LR = 2.0**-6


def cosine(done: float) -> float:
    """Half a cosine down to 0, after a warm-up over the first 5 %.

    Args:
        done: share of the run that is done, in [0, 1).
    """
    return min(1.0, (done + 1e-3) / _WARM_UP) * half_cosine(done)


def half_cosine(done: float) -> float:
    """Half a cosine down to 0.

    Args:
        done: share of the run that is done, in [0, 1).
    """
    return (1 + math.cos(math.pi * done)) / 2


def linear(done: float) -> float:
    """Straight down to 0.

    Args:
        done: share of the run that is done, in [0, 1).
    """
    return 1 - done


class MuonAdamW:
    """torch's Muon on hidden matrices, kernels flattened to matrices, and AdamW on all else.

    Args:
        model: what is trained.
        lr: of both; Muon's steps are matched to AdamW's in size.

    Attributes:
        parts: the two optimizers.
    """

    def __init__(self, model: nn.Module, lr: float) -> None:
        hidden = {row.name for row in param_groups(model).rows if row.role == "hidden"}
        trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
        self._whole = [p for n, p in trained.items() if n in hidden and p.dim() >= 2]
        self._flat = [nn.Parameter(p.detach().view(len(p), -1)) for p in self._whole]
        rest = [p for n, p in trained.items() if n not in hidden or p.dim() < 2]
        self.parts: list[torch.optim.Optimizer] = []
        if self._flat:
            self.parts.append(
                torch.optim.Muon(
                    self._flat, lr=lr, weight_decay=_DECAY, adjust_lr_fn="match_rms_adamw"
                )
            )
        if rest:
            self.parts.append(torch.optim.AdamW(_decayed(rest), lr=lr, betas=_BETAS))

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """The groups of both, for a schedule."""
        return [group for part in self.parts for group in part.param_groups]

    def zero_grad(self) -> None:
        """Drop the gradients of both."""
        for whole in self._whole:
            whole.grad = None
        for part in self.parts:
            part.zero_grad()

    def step(self) -> None:
        """One step of both."""
        for flat, whole in zip(self._flat, self._whole, strict=True):
            flat.grad = None if whole.grad is None else whole.grad.view(len(whole), -1)
        for part in self.parts:
            part.step()


def _decayed(parameters: Iterable[Tensor]) -> list[dict[str, Any]]:
    """Weight decay on matrices, and none on vectors."""
    given = list(parameters)
    matrices, vectors = [p for p in given if p.dim() >= 2], [p for p in given if p.dim() < 2]
    groups: list[dict[str, Any]] = [
        {"params": matrices, "weight_decay": _DECAY},
        {"params": vectors, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def _trained(model: nn.Module) -> list[Tensor]:
    return [p for p in model.parameters() if p.requires_grad]


def _lacks(package: str) -> LabError:
    return LabError(f'the arena needs {package}: pip install "normball[arena]".')


def _adamw(model: nn.Module, value: float, steps: int) -> Any:  # noqa: ARG001
    return torch.optim.AdamW(_decayed(_trained(model)), lr=value, betas=_BETAS)


def _muon(model: nn.Module, value: float, steps: int) -> Any:  # noqa: ARG001
    return MuonAdamW(model, value)


def _schedule_free(model: nn.Module, value: float, steps: int) -> Any:
    try:
        from schedulefree import AdamWScheduleFree
    except ModuleNotFoundError:
        raise _lacks("schedulefree") from None
    warm_up = int(_WARM_UP * steps)
    return AdamWScheduleFree(_decayed(_trained(model)), lr=value, warmup_steps=warm_up)


def _prodigy(model: nn.Module, value: float, steps: int) -> Any:  # noqa: ARG001
    try:
        from prodigyopt import Prodigy
    except ModuleNotFoundError:
        raise _lacks("prodigyopt") from None
    with redirect_stdout(StringIO()):  # it prints an explanation of its settings
        return Prodigy(_trained(model), lr=1.0, d_coef=value, weight_decay=0.01)


def _soap(model: nn.Module, value: float, steps: int) -> Any:  # noqa: ARG001
    try:
        from pytorch_optimizer import SOAP
    except ModuleNotFoundError:
        raise _lacks("pytorch-optimizer") from None
    # One side of an embedding table is too long for a preconditioner, so it gets none.
    return SOAP(_trained(model), lr=value, max_precondition_dim=1024)


def _scion(model: nn.Module, value: float, steps: int) -> Any:  # noqa: ARG001
    return Scion(param_groups(model), lr=value)


def _decay(model: nn.Module, value: float, steps: int) -> Any:  # noqa: ARG001
    return ClippedScion(param_groups(model), lr=value)


def _anytime(model: nn.Module, value: float, steps: int) -> Any:  # noqa: ARG001
    return ClippedScion(param_groups(model), lr=value, average=0.1)


def _untuned(model: nn.Module, value: float, steps: int) -> Any:  # noqa: ARG001
    return ClippedScion(param_groups(model), average=0.1)


@dataclass(frozen=True)
class Method:
    """A method of the arena.

    Attributes:
        name: the name on the command line.
        label: the name in tables.
        about: its settings, in words.
        centre: the recommended value of the number that is tuned.
        factor: ratio of neighbours in the grid.
        make: the optimizer, from the model, the number and the steps of the run.
        schedule: factor of the step over the run; None for a fixed one.
        tuned: whether anything is chosen.
        ours: whether it clips.
    """

    name: str
    label: str
    about: str
    centre: float
    factor: float
    make: Callable[[nn.Module, float, int], Any]
    schedule: Schedule | None = None
    tuned: bool = True
    ours: bool = False

    def value(self, place: int) -> float:
        """The number that is ``place`` places from the recommended one.

        Args:
            place: on the grid; 0 is the centre, and the only place if nothing is tuned.
        """
        # Rounded, so that it is the same on every machine.
        return float(f"{self.centre * self.factor**place:.6g}")


METHODS: Mapping[str, Method] = MappingProxyType(
    {
        method.name: method
        for method in (
            Method(
                "adamw",
                "AdamW",
                "torch's; betas 0.9 and 0.95, decay 0.1 on matrices, warm-up of 5 % and cosine; "
                "its step is tuned",
                4e-3,
                2.0,
                _adamw,
                cosine,
            ),
            Method(
                "schedule-free",
                "schedule-free AdamW",
                "package schedulefree; its betas, decay 0.1 on matrices, warm-up of 5 %; its step "
                "is tuned",
                1e-2,
                2.0,
                _schedule_free,
            ),
            Method(
                "prodigy",
                "Prodigy",
                "package prodigyopt; step 1, decay 0.01, cosine without warm-up; d_coef is tuned",
                1.0,
                2.0,
                _prodigy,
                half_cosine,
            ),
            Method(
                "muon",
                "Muon and AdamW",
                "torch's Muon on hidden matrices and kernels, its steps matched to AdamW's, and "
                "AdamW on the rest; decay 0.1, warm-up of 5 % and cosine; the step of both is "
                "tuned",
                8e-3,
                2.0,
                _muon,
                cosine,
            ),
            Method(
                "soap",
                "SOAP",
                "package pytorch-optimizer; its settings, no preconditioner for a side over 1,024, "
                "warm-up of 5 % and cosine; its step is tuned",
                6e-3,
                2.0,
                _soap,
                cosine,
            ),
            Method(
                "scion",
                "Scion",
                "the radii of param_groups, straight decay; its step is tuned",
                _LR,
                2.0,
                _scion,
                linear,
            ),
            Method(
                "decay",
                "Clipped Scion, decay",
                "straight decay, all else by default; its step is tuned",
                _LR,
                2.0,
                _decay,
                linear,
                ours=True,
            ),
            Method(
                "anytime",
                "Clipped Scion, anytime",
                "average 0.1, a fixed step, all else by default; its step is tuned",
                _LR,
                2.0,
                _anytime,
                ours=True,
            ),
            Method(
                "untuned",
                "Clipped Scion, untuned",
                "average 0.1, a fixed step, all else by default; nothing is tuned",
                _LR,
                1.0,
                _untuned,
                tuned=False,
                ours=True,
            ),
        )
    }
)


def find_method(name: str) -> Method:
    """The method of that name; a LabError has the nearest one if there is none."""
    return look_up("arena method", name, METHODS)
