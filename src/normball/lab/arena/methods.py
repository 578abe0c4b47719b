"""The methods of the arena: each as its authors recommend, with one number left to tune."""

import math
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import dataclass
from importlib import import_module
from io import StringIO
from typing import Any

import torch
from torch import Tensor, nn

from normball import ClippedScion, Scion, param_groups
from normball.lab.arena.training import Schedule
from normball.lab.errors import LabError
from normball.lab.muon import BETAS, MuonAdamW, decayed
from normball.lab.registry import by_name
from normball.optim.clipped_scion import LR

_WARM_UP = 0.05


def cosine(done: float) -> float:
    """Half a cosine down to 0, after a warm-up over the first 5 %."""
    return min(1.0, (done + 1e-3) / _WARM_UP) * half_cosine(done)


def half_cosine(done: float) -> float:
    """Half a cosine down to 0."""
    return (1 + math.cos(math.pi * done)) / 2


def linear(done: float) -> float:
    """Straight down to 0."""
    return 1 - done


def _trained(model: nn.Module) -> list[Tensor]:
    return [p for p in model.parameters() if p.requires_grad]


def _of(package: str, module: str, name: str) -> Any:
    """A class of another package."""
    try:
        return getattr(import_module(module), name)
    except ModuleNotFoundError:
        raise LabError(f'the arena needs {package}: pip install "normball[arena]".') from None


def _adamw(model: nn.Module, value: float, _: int) -> Any:
    return torch.optim.AdamW(decayed(_trained(model)), lr=value, betas=BETAS)


def _muon(model: nn.Module, value: float, _: int) -> Any:
    return MuonAdamW(model, value)


def _schedule_free(model: nn.Module, value: float, steps: int) -> Any:
    make = _of("schedulefree", "schedulefree", "AdamWScheduleFree")
    return make(decayed(_trained(model)), lr=value, warmup_steps=int(_WARM_UP * steps))


def _prodigy(model: nn.Module, value: float, _: int) -> Any:
    make = _of("prodigyopt", "prodigyopt", "Prodigy")
    with redirect_stdout(StringIO()):  # it prints an explanation of its settings
        return make(_trained(model), lr=1.0, d_coef=value, weight_decay=0.01)


def _soap(model: nn.Module, value: float, _: int) -> Any:
    make = _of("pytorch-optimizer", "pytorch_optimizer", "SOAP")
    # One side of an embedding table is too long for a preconditioner, so it gets none.
    return make(_trained(model), lr=value, max_precondition_dim=1024)


def _scion(model: nn.Module, value: float, _: int) -> Any:
    return Scion(param_groups(model), lr=value)


def _decay(model: nn.Module, value: float, _: int) -> Any:
    return ClippedScion(param_groups(model), lr=value)


def _anytime(model: nn.Module, value: float, _: int) -> Any:
    return ClippedScion(param_groups(model), lr=value, average=0.1)


def _untuned(model: nn.Module, _: float, __: int) -> Any:
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
    make: Callable[[nn.Module, float, int], Any]
    schedule: Schedule | None = None
    tuned: bool = True
    ours: bool = False
    factor: float = 2.0

    def value(self, place: int) -> float:
        """The number that is ``place`` places from the recommended one.

        Args:
            place: on the grid; 0 is the centre, and the only place if nothing is tuned.
        """
        # Rounded, so that it is the same on every machine.
        return float(f"{self.centre * self.factor**place:.6g}")


METHODS = by_name(
    Method(
        "adamw",
        "AdamW",
        "torch's; betas 0.9 and 0.95, decay 0.1 on matrices, warm-up of 5 % and cosine; its step "
        "is tuned",
        4e-3,
        _adamw,
        cosine,
    ),
    Method(
        "schedule-free",
        "schedule-free AdamW",
        "package schedulefree; its betas, decay 0.1 on matrices, warm-up of 5 %; its step is tuned",
        1e-2,
        _schedule_free,
    ),
    Method(
        "prodigy",
        "Prodigy",
        "package prodigyopt; step 1, decay 0.01, cosine without warm-up; d_coef is tuned",
        1.0,
        _prodigy,
        half_cosine,
    ),
    Method(
        "muon",
        "Muon and AdamW",
        "torch's Muon on hidden matrices and kernels, its steps matched to AdamW's, and AdamW on "
        "the rest; decay 0.1, warm-up of 5 % and cosine; the step of both is tuned",
        8e-3,
        _muon,
        cosine,
    ),
    Method(
        "soap",
        "SOAP",
        "package pytorch-optimizer; its settings, no preconditioner for a side over 1,024, warm-up "
        "of 5 % and cosine; its step is tuned",
        6e-3,
        _soap,
        cosine,
    ),
    Method(
        "scion",
        "Scion",
        "the radii of param_groups, straight decay; its step is tuned",
        LR,
        _scion,
        linear,
    ),
    Method(
        "decay",
        "Clipped Scion, decay",
        "straight decay, all else by default; its step is tuned",
        LR,
        _decay,
        linear,
        ours=True,
    ),
    Method(
        "anytime",
        "Clipped Scion, anytime",
        "average 0.1, a fixed step, all else by default; its step is tuned",
        LR,
        _anytime,
        ours=True,
    ),
    Method(
        "untuned",
        "Clipped Scion, untuned",
        "average 0.1, a fixed step, all else by default; nothing is tuned",
        LR,
        _untuned,
        tuned=False,
        ours=True,
    ),
)
