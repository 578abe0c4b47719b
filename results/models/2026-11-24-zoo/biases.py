"""The radius of biases: 1 (the default, that of tables) against 5 (that of hidden layers).

PYTHONPATH=. python results/models/2026-11-24-zoo/biases.py DIR

The zoo as in `python -m tests.zoo`, and the digits of `normball compare digits`. Appends to
`biases.jsonl` in DIR.
"""

import json
import sys
from pathlib import Path
from unittest import mock

import torch

from normball.groups import param_groups
from normball.lab import optimizers
from normball.lab.tasks import find_task
from normball.lab.train import Trainer
from tests.zoo import train
from tests.zoo.models import ZOO

SEEDS = (0, 1, 2)


def with_biases(radius: float):
    def groups(model, overrides=None, **radii):  # the lab's own overrides give way
        names = [row.name for row in param_groups(model).rows if row.role == "bias"]
        return param_groups(model, overrides={n: {"radius": radius} for n in names}, **radii)

    return groups


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    task = find_task("digits")
    with (folder / "biases.jsonl").open("a") as rows:

        def keep(**row) -> None:
            rows.write(json.dumps(row) + "\n")
            rows.flush()

        for radius in (5.0, 1.0):
            with mock.patch.object(train, "param_groups", with_biases(radius)):
                for entry in ZOO:
                    for seed in SEEDS:
                        found = train.train(entry, seed)
                        loss = {"before": found.before, "after": found.after}
                        keep(bias_radius=radius, model=entry.name, seed=seed, **loss)
            with mock.patch.object(optimizers, "param_groups", with_biases(radius)):
                for power in range(-9, -1):
                    for seed in SEEDS:
                        config = optimizers.configure(
                            task, "clipped-scion", seed=seed, lr=2.0**power
                        )
                        accuracy = Trainer(config).run().score
                        run = {"model": "digits", "lr": config.lr, "accuracy": accuracy}
                        keep(bias_radius=radius, seed=seed, **run)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
