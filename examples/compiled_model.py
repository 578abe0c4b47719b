"""A model under torch.compile, trained and then loaded into the plain model.

    python examples/compiled_model.py --out runs/compiled

docs/howto/compile.md explains the settings.
"""

import argparse
from pathlib import Path

import torch
from real_data import accuracy, cnn, digits
from torch.nn import functional as F
from torch.optim.lr_scheduler import LinearLR
from torch.utils.data import DataLoader

from normball import ClippedScion, param_groups


def main() -> None:
    """Train the compiled model, and evaluate and save the plain one, whose weights it shares."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--backend", default="inductor", help="aot_eager needs no C++ compiler")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)

    torch.manual_seed(0)
    train, test = digits()
    plain = cnn()
    model = torch.compile(plain, backend=options.backend)
    plan = param_groups(
        model, output_radius=200
    )  # the same names, with or without the compiler's prefix
    assert plan.rows == param_groups(plain, output_radius=200).rows
    optimizer = ClippedScion(plan, lr=2**-5, rho=16.0, alpha=0.5)
    loader = DataLoader(train, batch_size=64, shuffle=True, drop_last=True)
    scheduler = LinearLR(optimizer, 1.0, 0.0, total_iters=options.epochs * len(loader))
    for epoch in range(options.epochs):
        total = 0.0
        for x, y in loader:
            optimizer.zero_grad()
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()
            scheduler.step()
            total += float(loss.detach()) / len(loader)
        print(f"epoch {epoch + 1}: loss {total:.3f}")
    print(f"test accuracy {accuracy(plain, test):.3f}")
    # `plain` and `model` share their weights; the names of `plain` have no prefix.
    torch.save(plain.state_dict(), options.out / "final.pt")


if __name__ == "__main__":
    main()
