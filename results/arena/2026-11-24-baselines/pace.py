"""Seconds of a step, all optimizers in turns, the least of several: python .../pace.py

The runs of the sweep were made at different times on a shared machine; these were not.
"""

import json
from pathlib import Path

import torch

from normball.lab.optimizers import OPTIMIZERS, configure
from normball.lab.tasks import find_task
from normball.lab.train import Trainer

ROUNDS = 5
SETTINGS = {"digits": {"model": "mlp", "epochs": 4}, "shakespeare": {"epochs": 1, "test_size": 1}}


def main() -> None:
    torch.set_num_threads(1)
    found: dict[str, dict[str, float]] = {}
    for task, settings in SETTINGS.items():
        found[task] = dict.fromkeys(OPTIMIZERS, float("inf"))
        for _ in range(ROUNDS):
            for name in OPTIMIZERS:
                result = Trainer(configure(find_task(task), name, **settings)).run()
                pace = result.seconds / (result.steps * result.epochs_done)
                found[task][name] = min(found[task][name], pace)
        for name, pace in found[task].items():
            print(f"{task}, {name}: {1000 * pace:.2f} ms")
    out = Path(__file__).with_name("pace.json")
    out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
