"""`python -m tests.zoo DIR`: train the zoo with three seeds, append the rows, print the table."""

import json
import platform
import sys
from dataclasses import asdict
from pathlib import Path

import torch
import transformers

from tests.zoo.models import ZOO
from tests.zoo.train import STEPS, train

SEEDS = (0, 1, 2)


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    folder.mkdir(parents=True, exist_ok=True)
    setting = {"lr": 2**-6, "rho": "auto", "output_radius": 32, "steps": STEPS}
    setting |= {
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "machine": platform.machine(),
    }
    print("| model | what it has | parameters | trained | unplaced | loss before | after | fall |")
    print("|---|---|---|---|---|---|---|---|")
    for entry in ZOO:
        outcomes = [train(entry, seed) for seed in SEEDS]
        with (folder / "rows.jsonl").open("a") as rows:
            for outcome in outcomes:
                rows.write(json.dumps(asdict(outcome) | setting) + "\n")
        worst = min(outcomes, key=lambda outcome: outcome.fall)
        print(
            f"| {entry} | {entry.about} | {worst.parameters:,} | {worst.trained:,} "
            f"| {worst.unplaced} | {worst.before:.2f} | {worst.after:.2f} | {worst.fall:.0%} |"
        )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
