"""Hand-made configurations, results and rows."""

from collections.abc import Generator, Iterable
from dataclasses import replace
from typing import Any

from normball.lab.config import RunConfig
from normball.lab.optimizers import configure
from normball.lab.results import RunResult
from normball.lab.rows import Row
from normball.lab.sweep import SweepEvent, train
from normball.lab.tasks import DIGITS
from normball.lab.workers import Local

RESULT = RunResult(
    score=0.9,
    train_loss=0.1,
    diverged=False,
    epochs_done=2,
    scores=[0.8, 0.9],
    losses=[0.5, 0.1],
    trace_name="dual_norm",
    trace=[30.0, 20.0, 10.0],
    trace_every=2,
    clipped_share=None,
    skipped=0,
    seconds=1.5,
    steps=11,
    data="some images",
)


# torch's Muon takes matrices only.
NETWORKS = {"muon": "mlp"}


def config(optimizer: str = "scion", lr: float = 2.0**-5, seed: int = 0, **more: Any) -> RunConfig:
    return configure(DIGITS, optimizer, lr=lr, seed=seed, **{"epochs": 2} | more)


def row(
    optimizer: str = "scion", lr: float = 2.0**-5, seed: int = 0, percent: float = 90.0, **more: Any
) -> Row:
    share = 0.25 if optimizer == "clipped-scion" else None
    result = replace(RESULT, score=percent / 100, clipped_share=share, **more)
    return Row(config(optimizer, lr, seed), result, {"python": "3.11", "torch": "2.13"}, "A box")


def run_all(configs: Iterable[RunConfig], jobs: int) -> Generator[SweepEvent, None, None]:
    waiting = iter(configs)
    return Local(jobs).carry_out(train, lambda: next(waiting, None))
