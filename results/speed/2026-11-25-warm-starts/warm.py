"""Does the last step's inverse root spare the next step's polar factor some work?

    NORMBALL_DATA=... python results/speed/2026-11-25-warm-starts/warm.py OUT

Along runs of Clipped Scion (alpha 0.1 unless named), at every 25th step and for every hidden
matrix, the momentum `X` is held against the root `R = (P P^T + 4e-6 lambda)^(-1/2)` of the momentum
`P` one step before, all in
float64. Asked: is `R X` better conditioned than `X`, so that fewer polynomials do? And how far is
the factor of `R X` from that of `X`, in `<X, factor>` against the nuclear norm?
"""

import json
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from normball.lab.optimizers import configure
from normball.lab.tasks import find_task
from normball.lab.train import Trainer
from normball.norms import Spectral

EVERY = 25
RUNS: dict[str, dict[str, Any]] = {
    "shakespeare": {"lr": 2.0**-11, "rho": 400.0, "epochs": 4},
    "shakespeare, alpha 0.02": {"lr": 2.0**-11, "rho": 400.0, "epochs": 4, "alpha": 0.02},
}


def root(x: Tensor) -> Tensor:
    """Return `(x x^T + 4e-6 lambda I)^(-1/2)`."""
    eigenvalues, q = torch.linalg.eigh(x @ x.mT)
    return (q * (eigenvalues.clamp(min=0) + 4e-6 * eigenvalues.amax()).rsqrt()) @ q.mT


def spread(x: Tensor) -> float:
    """Return the largest singular value over the one that a tenth of all are below."""
    sigma = torch.linalg.svdvals(x)
    return (sigma[0] / sigma.flip(0)[len(sigma) // 10]).item()


def study(x: Tensor, before: Tensor) -> dict[str, float]:
    """Return both answers for one matrix."""
    x, before = (t.mT.double() if t.shape[0] > t.shape[1] else t.double() for t in (x, before))
    warm = root(before) @ x
    u, _, vh = torch.linalg.svd(warm, full_matrices=False)
    nuclear = torch.linalg.svdvals(x).sum()
    change = torch.linalg.matrix_norm(x - before) / torch.linalg.matrix_norm(x)
    return {
        "change": change.item(),
        "spread_cold": spread(x),
        "spread_warm": spread(warm),
        "error": (1 - (x * (u @ vh)).sum() / nuclear).item(),
    }


def main(path: Path) -> None:
    with path.open("w", encoding="utf-8") as file:
        for name, settings in RUNS.items():
            task = find_task(name.split(",")[0])
            trainer = Trainer(configure(task, "clipped-scion", **settings))
            optimizer = trainer.state.optimizer
            hidden = [
                p
                for group in optimizer.param_groups
                for p in group["params"]
                if type(group["norm"]) is Spectral and p.ndim == 2
            ]
            step, before = 0, []

            def look(*_: Any, name: str = name, hidden: list[Any] = hidden) -> None:
                nonlocal step, before
                step += 1
                state = trainer.state.optimizer.state  # noqa: B023 (called in this turn only)
                now = [state[p]["momentum"].clone() for p in hidden]
                if step % EVERY == 0:
                    for number, (x, old) in enumerate(zip(now, before, strict=True)):
                        row = {"run": name, "step": step, "matrix": number, "shape": [*x.shape]}
                        file.write(json.dumps(row | study(x, old)) + "\n")
                before = now

            optimizer.register_step_post_hook(look)
            trainer.run()


def summarise(path: Path) -> None:
    """Print the quartiles of every figure, by run."""
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    for run in dict.fromkeys(row["run"] for row in rows):
        mine = [row for row in rows if row["run"] == run]
        print(f"{run}: {len(mine)} factors; lower quartile, median, upper quartile")
        for key in ("change", "spread_cold", "spread_warm", "error"):
            values = torch.tensor([row[key] for row in mine])
            print(f"  {key}: " + ", ".join(f"{values.quantile(q):.3g}" for q in (0.25, 0.5, 0.75)))


if __name__ == "__main__":
    torch.set_num_threads(1)
    rows_path = Path(sys.argv[1]) / "warm.jsonl"
    main(rows_path)
    summarise(rows_path)
