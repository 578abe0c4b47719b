"""Compare runs of trial.py with the one on a single process: `python compare.py FOLDER`.

Prints for every run the largest differences of the dual norm (relative) and of the weights.
"""

import sys
from pathlib import Path

import torch


def read(folder):
    """Return what the first rank saw, and the weights of all ranks."""
    ranks = [torch.load(file) for file in sorted(folder.glob("rank-*.pt"))]
    assert all(rank["seen"] == ranks[0]["seen"] for rank in ranks), f"{folder}: ranks disagree"
    weights = {}
    for rank in ranks:
        weights |= rank["weights"]
    return ranks[0]["seen"], weights, len(ranks)


def main():
    folder = Path(sys.argv[1])
    alone, weights, _ = read(folder / "alone")
    print("| run | ranks | steps | dual norm, relative | step factor | weights |")
    print("|---|---|---|---|---|---|")
    for run in sorted(folder.iterdir()):
        if run.name == "alone" or not list(run.glob("rank-*.pt")):
            continue
        seen, found, ranks = read(run)
        assert found.keys() == weights.keys(), run
        tail = alone[len(alone) - len(seen) :]
        norm = max(
            abs(a["dual_norm"] / b["dual_norm"] - 1) for a, b in zip(seen, tail, strict=True)
        )
        factor = max(
            abs(a["step_factor"] - b["step_factor"]) for a, b in zip(seen, tail, strict=True)
        )
        far = max(float((found[name] - x).abs().max()) for name, x in weights.items())
        print(f"| {run.name} | {ranks} | {len(seen)} | {norm:.1e} | {factor:.1e} | {far:.1e} |")


if __name__ == "__main__":
    main()
