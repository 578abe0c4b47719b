"""Measure, print the ratios, append the rows to `results/speed/<date>/rows.jsonl`.

`python -m benchmarks [--rounds N] [--out DIR] [CASE ...]`; `--figure` draws the recorded rows.
"""

import argparse
import datetime
import json
import os
import platform
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from benchmarks import cases, goal, overlap, peers, small

CASES = {
    "step": cases.steps,
    "stock": cases.stock,
    "clipping": cases.clipping,
    "recipe": cases.recipe,
    "small": cases.small,
    "networks": small.networks,
    "memory": lambda _: cases.memory(),
    "factor": cases.factors,
    "batch": cases.batches,
    "growth": cases.growth,
    "goal": goal.goals,
    "overlap": overlap.overlap,
}


def machine() -> str:
    """The processor's model and the number of cores, and nothing that names the machine."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(errors="replace").splitlines() if info.is_file() else []
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    model = models[0] if models else platform.processor() or platform.machine()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    capability = torch.backends.cpu.get_cpu_capability()
    return f"{model}, {cores} cores, {capability}"


def measure(names: list[str], rounds: int) -> Iterator[dict[str, Any]]:
    """Yield the rows of each case, with what they were measured on."""
    about = {
        "date": datetime.date.today().isoformat(),
        "machine": machine(),
        "versions": peers.versions(),
        "threads": 1,
        "rounds": rounds,
    }
    for name in names:
        for row in CASES[name](rounds):
            yield row | about


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("cases", nargs="*", metavar="CASE", help=f"of {', '.join(CASES)}; all")
    parser.add_argument("--rounds", type=int, default=7, help="timed rounds of each (default 7)")
    parser.add_argument("--out", type=Path, help="folder; results/speed/<date> by default")
    parser.add_argument("--figure", action="store_true", help="only draw what is recorded there")
    options = parser.parse_args()
    unknown = sorted(set(options.cases) - set(CASES))
    if unknown:
        parser.error(f"unknown case {unknown[0]!r}: one of {', '.join(CASES)}")
    if options.rounds < 2:
        parser.error("--rounds must be at least 2, for a spread")
    today = datetime.date.today().isoformat()
    out: Path = options.out or Path("results/speed") / today
    path = out / "rows.jsonl"
    if not options.figure:
        torch.set_num_threads(1)
        torch.manual_seed(0)
        out.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as file:
            for row in measure(options.cases or list(CASES), options.rounds):
                file.write(json.dumps(row) + "\n")
                file.flush()
                about = ("date", "machine", "versions", "threads", "rounds")
                print(*(f"{k}={v}" for k, v in row.items() if k not in about), sep="  ", flush=True)
    if path.is_file():
        from benchmarks.figure import draw

        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        if any(row["case"] == "growth" for row in rows):
            draw(rows, out / "figure.svg")
            print(out / "figure.svg")


if __name__ == "__main__":
    main()
