"""One step size for all widths, and what width and depth do to the dual norm.

python results/transfer/2026-11-24/transfer.py --fashion FOLDER --text FILE --out DIR

FOLDER holds the IDX files of Fashion-MNIST, FILE is tiny Shakespeare. Every run appends a line to
`rows.jsonl` in DIR; a run that is there already is not repeated. About 30 minutes on one core.
"""

import argparse
import json
import platform
import time
from pathlib import Path

import torch
from models import Characters, Fashion
from torch import nn

from normball import ClippedScion, param_groups

RHO = 30.0
WIDTHS = {"mlp": (64, 128, 256, 512, 1024), "gpt": (64, 128, 256, 512)}
DEPTHS = (1, 2, 4, 8, 16)
STEPS = {"mlp": 150, "gpt": 120}
POWERS = {"clipped-scion": range(-9, -3), "adamw": range(-11, -4)}
RHOS = (3.0, 10.0, 30.0, 100.0, 300.0)


def optimizer_for(model: nn.Module, setting: dict):
    if setting["optimizer"] == "adamw":
        return torch.optim.AdamW(model.parameters(), lr=setting["lr"], weight_decay=0.0)
    return ClippedScion(param_groups(model), lr=setting["lr"], rho=setting["rho"])


def at_start(task, model: nn.Module, batch) -> dict[str, float]:
    """The dual norm of the gradient of one batch, `alpha=1`, as the sum over roles."""
    plan = param_groups(model)
    roles = {row.name: row.role for row in plan.rows}
    probe = ClippedScion(plan, lr=0.0, rho=1.0, alpha=1.0)
    model.zero_grad()
    task.loss(model, batch).backward()
    probe.step()
    found: dict[str, float] = {}
    for group, value in zip(plan, probe.metrics()["group_dual_norms"].tolist(), strict=True):
        role = roles[group["params"][0][0]]
        found[role] = found.get(role, 0.0) + value
    return found


def run(task, setting: dict) -> dict:
    """Train one network and return what it showed."""
    started = time.perf_counter()
    torch.manual_seed(setting["seed"])
    model = task.build(setting["width"], setting["depth"])
    batches = task.batches(torch.Generator().manual_seed(setting["seed"]))
    start = at_start(task, model, next(batches))
    optimizer = optimizer_for(model, setting)
    dual_norms = []
    for _ in range(STEPS[setting["task"]]):
        optimizer.zero_grad()
        loss = task.loss(model, next(batches))
        loss.backward()
        optimizer.step()
        if not loss.isfinite():
            break
        if setting["optimizer"] != "adamw":
            dual_norms.append(float(optimizer.metrics()["dual_norm"]))
    with torch.no_grad():
        held_out = float(task.held_out(model))
    row = {"held_out": held_out, "start": start, "seconds": time.perf_counter() - started}
    if dual_norms:
        row["dual_norms"] = [round(value, 3) for value in dual_norms]
        row["clipped_share"] = float(optimizer.metrics()["clipped_share"])
    return row


def settings():
    """Every run, small ones first."""
    for name, widths in WIDTHS.items():
        base = {"task": name, "depth": 2, "seed": 0}
        for depth in DEPTHS:
            yield base | {"optimizer": "clipped-scion", "width": 64, "depth": depth,
                          "lr": 2.0**-7, "rho": RHO, "part": "depth"}  # fmt: skip
        for depth, width in ((2, 64), (8, 64), (2, 256)):
            for rho in RHOS:
                yield base | {"optimizer": "clipped-scion", "width": width, "depth": depth,
                              "lr": 2.0**-6, "rho": rho, "part": "rho"}  # fmt: skip
        for width in widths:
            for optimizer, powers in POWERS.items():
                for power in powers:
                    rho = RHO if optimizer == "clipped-scion" else None
                    yield base | {"optimizer": optimizer, "width": width, "lr": 2.0**power,
                                  "rho": rho, "part": "width"}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("fashion", "text", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    options = parser.parse_args()
    torch.set_num_threads(1)
    tasks = {"mlp": Fashion(options.fashion), "gpt": Characters(options.text)}
    options.out.mkdir(parents=True, exist_ok=True)
    file = options.out / "rows.jsonl"
    lines = file.read_text().splitlines() if file.exists() else []
    done = [json.loads(line)["setting"] for line in lines]
    about = {"torch": torch.__version__, "machine": platform.machine()}
    for setting in settings():
        if setting not in done:
            row = {"setting": setting} | run(tasks[setting["task"]], setting) | about
            with file.open("a") as rows:
                rows.write(json.dumps(row) + "\n")
            print(setting, round(row["held_out"], 3), round(row["seconds"], 1), flush=True)


if __name__ == "__main__":
    main()
