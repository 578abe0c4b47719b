"""What `param_groups` and the default hyper-parameters do with a model of the zoo."""

from dataclasses import dataclass

import torch
from torch import Tensor

from normball import ClippedScion, param_groups
from tests.zoo.models import Entry

STEPS = 50


@dataclass(frozen=True)
class Outcome:
    """A model placed by `param_groups` and trained on its batch."""

    model: str
    seed: int
    parameters: int
    trained: int
    """Entries of the parameters that require a gradient."""
    unplaced: int
    """Parameters that require a gradient and are in no group."""
    before: float
    after: float
    """The loss of the batch before the first and after the last step."""
    dual_norms: tuple[float, ...]
    """The global dual norm at every step."""
    clipped_share: float

    @property
    def fall(self) -> float:
        """The share of the loss that is gone."""
        return 1 - self.after / self.before


def train(entry: Entry, seed: int) -> Outcome:
    """Train for `STEPS` steps on the fixed batch, looking ahead, all else left at its default."""
    torch.manual_seed(seed)
    model = entry.build().train()
    plan = param_groups(model)
    optimizer = ClippedScion(plan)
    wanted = [p for p in model.parameters() if p.requires_grad]
    placed = {id(p) for group in plan for _, p in group["params"]}
    losses: list[Tensor] = []
    dual_norms = []
    for _ in range(STEPS):
        optimizer.zero_grad()
        loss = entry.loss(model)
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
        dual_norms.append(optimizer.metrics()["dual_norm"])
    with torch.no_grad():
        losses.append(entry.loss(model))
    return Outcome(
        model=entry.name,
        seed=seed,
        parameters=sum(p.numel() for p in model.parameters()),
        trained=sum(p.numel() for p in wanted),
        unplaced=sum(id(p) not in placed for p in wanted),
        before=float(losses[0]),
        after=float(losses[-1]),
        dual_norms=tuple(round(float(d), 4) for d in dual_norms),
        clipped_share=float(optimizer.metrics()["clipped_share"]),
    )
