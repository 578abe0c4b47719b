"""Each optimizer at its best settings of the tuning, for nanoGPT's 2,000 steps.

    python results/models/2026-11-24-nanogpt/final.py TUNING OUT SEEDS

TUNING is the folder of the short runs. OUT gets a row for each run, and in ``whole.jsonl`` the loss
of its last weights over the whole test text, of which the rows see the first 240 windows. Rows that
are there already are kept.
"""

import json
import sys
from dataclasses import replace
from pathlib import Path

import torch

from normball.lab.cells import best, make_cells, of
from normball.lab.charts import draw
from normball.lab.data.base import Text
from normball.lab.rows import ROWS, new_row, open_folder, read_rows
from normball.lab.tasks import find_task
from normball.lab.train import Trainer, mean_loss

# Of 50 steps each.
EPOCHS = 40
# nanoGPT's estimate: 20 batches of 12 windows.
WINDOWS = 240


def main(tuning: Path, out: Path, seeds: list[int]) -> None:
    torch.set_num_threads(1)
    cells = make_cells(read_rows(tuning / ROWS))
    with open_folder(out) as folder:
        for seed in seeds:
            for name in ("adamw", "scion", "clipped-scion"):
                chosen = best(of(cells, name)).rows[0].config
                config = replace(chosen, epochs=EPOCHS, test_size=WINDOWS, seed=seed)
                if config.key() in folder.done():
                    continue
                trainer = Trainer(config)
                folder.append(new_row(config, trainer.run()))
                data = find_task(config.task).data(config)
                assert isinstance(data, Text)
                model = trainer.state.model.eval()
                every = replace(data, test_windows=len(data.test))
                line = {
                    "optimizer": name,
                    "seed": seed,
                    "parameters": sum(p.numel() for p in model.parameters()),
                    "whole_test_loss": mean_loss(model, every.test_batches()),
                    "first_windows_loss": mean_loss(model, data.test_batches()),
                }
                with (out / "whole.jsonl").open("a") as file:
                    file.write(json.dumps(line) + "\n")
                print(line, flush=True)
        cells = make_cells(folder.rows)
        for kind in ("svg", "png"):
            folder.replace(f"final.{kind}", draw(["over-time"], cells, kind, "2,000 steps"))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), [int(seed) for seed in sys.argv[3].split(",")])
