"""What grows in the norm ball: noise and lag of the estimate, or the gap itself?

    python results/figures/2026-11-24-gap/gap.py OUT

The gap that a constrained run sees is ``<d, x - u>``, with the estimate ``d`` of the momentum and
``u`` the ball's point furthest against it. It has two parts, the dual norm ``|d|*`` and ``<d, x>``.
The true Wolfe gap has the gradient of the whole training set at ``x`` in the place of ``d``. Along
runs of Clipped Scion both are measured, and a third: ``other``, a momentum of other mini-batches
drawn at the same points. It lags behind as ``d`` does, but its noise knows nothing of ``x``, so

    <d, x> - <gradient, x>  =  (<d, x> - <other, x>)  +  (<other, x> - <gradient, x>)
                                what noise brought in        lag, and noise around it

Asked before the runs: (1) is the gap that is seen mostly noise? (2) does -<d, x> grow, at a fixed
step and during decay? (3) if so, does the true -<gradient, x> grow as well, or only the noise?
(4) does it come with larger weights, a larger gradient, or a gradient that turns against them?

Asked after the first two schedules, in which the gap that is seen rose during decay while the true
one fell: (5) does it rise where the weights stand still? In the third, ``frozen``, the step size is
0 from seven tenths of the run on, and nothing changes but the estimate.
"""

import json
import sys
from collections.abc import Iterator
from itertools import chain, repeat
from pathlib import Path

import torch
from torch import Tensor

from normball.lab.config import RunConfig
from normball.lab.data.base import Batch, Images
from normball.lab.optimizers import configure, find_optimizer
from normball.lab.schedules import make_schedule
from normball.lab.tasks import build_model, find_task

FROZEN_FROM = 0.7
# Of a text, so many windows stand for all.
WINDOWS = 512
CASES = {
    "digits": ({"lr": 2.0**-8, "rho": 16.0}, "linear", range(3)),
    "digits, tight": (
        {"lr": 2.0**-8, "rho": 16.0, "input_radius": 1.0, "radius": 5.0, "output_radius": 200.0},
        "linear",
        range(3),
    ),
    "shakespeare": (
        {"lr": 2.0**-10, "rho": 400.0, "epochs": 8, "test_size": 64},
        "trapezoidal",
        range(1),
    ),
}
EVERY = {"digits": 11, "shakespeare": 40}


class Study:
    """One run with a second momentum and a true gradient beside it, perhaps frozen at last."""

    def __init__(self, config: RunConfig, *, frozen: bool = False) -> None:
        self.task = find_task(config.task)
        self.config = config
        self.data = self.task.data(config)
        torch.manual_seed(config.seed)
        self.model = build_model(config)
        self.params = list(self.model.parameters())
        self.optimizer = find_optimizer(config.optimizer).build(self.model, config)
        self.balls = {
            id(p): (group["norm"], group["radius"])
            for group in self.optimizer.param_groups
            for p in group["params"]
        }
        self.steps = config.epochs * self.data.steps(config.batch_size)
        self.last = round(FROZEN_FROM * self.steps) if frozen else self.steps
        self.whole = list(self._whole())

    def _whole(self) -> Iterator[Batch]:
        """All of the training set, or many windows of it, in parts of one size."""
        size = self.config.batch_size
        if isinstance(self.data, Images):
            yield self.data.scaled(self.data.train_x), self.data.train_y
            return
        order = torch.Generator().manual_seed(10_000)
        drawn = chain.from_iterable(self.data.batches(size, order) for _ in repeat(None))
        for _ in range(WINDOWS // size):
            yield next(drawn)

    def gradient(self, batches: list[Batch]) -> tuple[float, list[Tensor]]:
        """Mean loss and gradient over batches of one size."""
        losses = [self.task.loss(self.model(x), y) / len(batches) for x, y in batches[:1]]
        gradient = list(torch.autograd.grad(losses[0], self.params))
        for x, y in batches[1:]:
            losses.append(self.task.loss(self.model(x), y) / len(batches))
            for total, more in zip(
                gradient, torch.autograd.grad(losses[-1], self.params), strict=True
            ):
                total += more
        return float(sum(loss.detach() for loss in losses)), gradient

    def dual_norm(self, g: list[Tensor]) -> float:
        parts = ((self.balls[id(p)], t) for p, t in zip(self.params, g, strict=True))
        return sum(radius * float(norm.dual_norm(t)) for (norm, radius), t in parts)

    def length(self, x: list[Tensor]) -> float:
        """The weights in the product norm: 1 on the edge of the ball."""
        parts = ((self.balls[id(p)], t) for p, t in zip(self.params, x, strict=True))
        return max(float(norm.norm(t)) / radius for (norm, radius), t in parts)

    def run(self) -> Iterator[dict[str, float]]:
        """Train, and yield what is measured on the way."""
        config, alpha = self.config, self.config.alpha
        schedule = make_schedule(config.schedule, self.optimizer, self.steps)
        orders = [
            torch.Generator().manual_seed(seed) for seed in (config.seed, config.seed + 5_000)
        ]
        streams = [
            chain.from_iterable(self.data.batches(config.batch_size, order) for _ in repeat(None))
            for order in orders
        ]
        other = [torch.zeros_like(p) for p in self.params]
        for step in range(1, self.steps + 1):
            mine, theirs = (self.gradient([next(stream)])[1] for stream in streams)
            for total, g in zip(other, theirs, strict=True):
                total.lerp_(g, alpha)
            measured = step % EVERY[config.task] == 0
            if measured:
                x = [p.detach().clone() for p in self.params]
                loss, true = self.gradient(self.whole)
            for p, g in zip(self.params, mine, strict=True):
                p.grad = g
            if step > self.last:
                for group in self.optimizer.param_groups:
                    group["lr"] = 0.0
            lr = self.optimizer.param_groups[0]["lr"]
            self.optimizer.step()
            schedule.step()
            if measured:
                d = [self.optimizer.state[p]["momentum"] for p in self.params]
                yield {
                    "step": step,
                    "lr": lr,
                    "loss": loss,
                    "length": self.length(x),
                    **self.figures("seen", d, x),
                    **self.figures("other", other, x),
                    **self.figures("true", true, x),
                    "error": self.dual_norm([a - b for a, b in zip(d, true, strict=True)]),
                }

    def figures(self, name: str, g: list[Tensor], x: list[Tensor]) -> dict[str, float]:
        """``|g|*`` and ``-<g, x>``; the gap is their difference."""
        inner = sum(float((a.double() * b.double()).sum()) for a, b in zip(g, x, strict=True))
        return {f"{name}_norm": self.dual_norm(g), f"{name}_inner": -inner}


def main(out: Path) -> None:
    torch.set_num_threads(1)
    out.mkdir(parents=True, exist_ok=True)
    record = out / "gap.jsonl"
    rows = map(json.loads, record.read_text().splitlines()) if record.exists() else ()
    done = {(row["case"], row["schedule"], row["seed"]) for row in rows}
    for name, (settings, decay, seeds) in CASES.items():
        for schedule in ("constant", decay, "frozen"):
            for seed in seeds:
                if (name, schedule, seed) in done:
                    continue
                config = configure(
                    find_task(name.split(",")[0]),
                    "clipped-scion",
                    seed=seed,
                    schedule="constant" if schedule == "frozen" else schedule,
                    constrained=True,
                    **settings,
                )
                own = {"case": name, "schedule": schedule, "seed": seed}
                points = list(Study(config, frozen=schedule == "frozen").run())
                with record.open("a") as file:
                    file.writelines(json.dumps(own | point) + "\n" for point in points)
                print(name, schedule, seed, flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
