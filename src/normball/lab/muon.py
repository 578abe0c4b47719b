"""Muon as its users run it: with AdamW for what is no hidden matrix."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from normball import param_groups
from normball.lab.errors import LabError

BETAS = (0.9, 0.95)


class MuonAdamW(torch.optim.Optimizer):
    """torch's Muon on hidden matrices and kernels, kernels flattened, and AdamW on all else.

    Args:
        model: what is trained.
        lr: of both; Muon's steps are matched to AdamW's in size.
        decay: weight decay of matrices and kernels.
        kernels: whether Muon takes kernels; else it takes matrices only, and AdamW's decay is for
            vectors too.

    Attributes:
        parts: the two optimizers, those that have parameters.
        hidden: the parameters that Muon takes.
    """

    def __init__(
        self, model: nn.Module, lr: float, *, decay: float = 0.1, kernels: bool = True
    ) -> None:
        roles = {row.name: row.role for row in param_groups(model).rows}
        shapes = range(2, 99) if kernels else (2,)
        self.hidden: list[Tensor] = []
        rest: list[Tensor] = []
        for name, p in model.named_parameters():
            if p.requires_grad:
                ours = roles.get(name) == "hidden" and p.dim() in shapes
                (self.hidden if ours else rest).append(p)
        self._flat = [nn.Parameter(p.detach().view(len(p), -1)) for p in self.hidden]
        self.parts: list[torch.optim.Optimizer] = []
        if self._flat:
            if not hasattr(torch.optim, "Muon"):
                raise LabError(
                    "muon is torch.optim.Muon, which came with torch 2.9, and this is torch "
                    f"{torch.__version__}: leave it out, or update torch."
                )
            self.parts.append(
                torch.optim.Muon(
                    self._flat, lr=lr, weight_decay=decay, adjust_lr_fn="match_rms_adamw"
                )
            )
        if rest:
            groups = decayed(rest, decay) if kernels else [{"params": rest, "weight_decay": decay}]
            self.parts.append(torch.optim.AdamW(groups, lr=lr, betas=BETAS))
        super().__init__([*self._flat, *rest], {"lr": lr})
        self._join()

    def _join(self) -> None:
        """Let the groups be those of the parts, so that a schedule sets both."""
        self.param_groups = [group for part in self.parts for group in part.param_groups]

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Drop the gradients of both."""
        for p in self.hidden:
            p.grad = None
        super().zero_grad(set_to_none)

    def step(self, closure: None = None) -> None:  # type: ignore[override]  # noqa: ARG002
        """One step of both."""
        for flat, p in zip(self._flat, self.hidden, strict=True):
            flat.grad = None if p.grad is None else p.grad.view(len(p), -1)
        for part in self.parts:
            part.step()

    # torch would time this step, which costs time; it times the parts.
    step.hooked = True  # type: ignore[attr-defined]

    def state_dict(self) -> dict[str, Any]:
        """The states of both, and the step size."""
        parts = [part.state_dict() for part in self.parts]
        return {"lr": self.param_groups[0]["lr"], "parts": parts}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """What ``state_dict`` gave."""
        for part, saved in zip(self.parts, state_dict["parts"], strict=True):
            part.load_state_dict(saved)
        self._join()
        for group in self.param_groups:
            group["lr"] = state_dict["lr"]


def decayed(parameters: Iterable[Tensor], decay: float = 0.1) -> list[dict[str, Any]]:
    """Groups with weight decay on matrices, and none on vectors."""
    given = list(parameters)
    groups = (
        {"params": [p for p in given if p.dim() >= 2], "weight_decay": decay},
        {"params": [p for p in given if p.dim() < 2], "weight_decay": 0.0},
    )
    return [group for group in groups if group["params"]]
