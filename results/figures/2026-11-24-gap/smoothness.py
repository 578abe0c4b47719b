"""The smoothness along the steps of the characters' runs: python .../smoothness.py OUT

Where the gap stays below the threshold, a step is steepest descent of size gamma = lr / rho, which
descends while gamma L is below 2.
"""

import json
import sys
from pathlib import Path

import torch
from gap import CASES

from normball.lab.optimizers import configure
from normball.lab.tasks import find_task
from normball.lab.train import Trainer


def main(out: Path) -> None:
    torch.set_num_threads(1)
    settings, decay, _ = CASES["shakespeare"]
    found = {}
    for schedule in ("constant", decay):
        config = configure(
            find_task("shakespeare"),
            "clipped-scion",
            schedule=schedule,
            constrained=True,
            **settings,
        )
        trainer = Trainer(config, probe_every=20)
        result = trainer.run()
        assert trainer.probe is not None
        samples = trainer.probe.samples()
        found[schedule] = {
            "step": samples["step"].tolist(),
            "L": samples["L"].tolist(),
            "batch_dual_norm": samples["dual_norm"].tolist(),
            "gap": result.trace,
            "scores": result.scores,
        }
        middle = samples["L"][5:14].median()
        print(f"{schedule}: from step 100 to 260 gamma L is {config.lr / config.rho * middle:.2f}")
    (out / "smoothness.json").write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
