"""Averaged weights in place of a schedule, and beside them the weights that train.

    python examples/weight_averaging.py --out runs/average
    python examples/weight_averaging.py --out runs/average --resume

docs/howto/weight-averaging.md explains the settings.
"""

import argparse
from pathlib import Path

import torch
from real_data import accuracy, cnn, digits
from torch.nn import functional as F
from torch.optim.swa_utils import update_bn
from torch.utils.data import DataLoader

from normball import ClippedScion, param_groups


def main() -> None:
    """Train at a fixed step, look at both weights every epoch, and save a checkpoint."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--stop-after", type=int)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    file = options.out / "checkpoint.pt"

    torch.manual_seed(0)
    train, test = digits()
    model = cnn()
    optimizer = ClippedScion(param_groups(model), average=0.1)
    order = torch.Generator().manual_seed(0)
    loader = DataLoader(train, batch_size=64, shuffle=True, drop_last=True, generator=order)
    parts = {"model": model, "optimizer": optimizer}
    first = 0
    if options.resume:
        saved = torch.load(file, weights_only=True)
        for name, part in parts.items():
            part.load_state_dict(saved[name])
        order.set_state(saved["order"])
        first = saved["epoch"]
    for epoch in range(first, options.stop_after or options.epochs):
        optimizer.train()  # the fast weights back into the model
        total = 0.0
        for x, y in loader:
            optimizer.zero_grad()
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()
            total += float(loss.detach()) / len(loader)
        fast = accuracy(model, test)
        optimizer.eval()  # the averaged weights into the model
        update_bn(loader, model)  # its statistics were those of the fast weights
        print(
            f"epoch {epoch + 1}: loss {total:.3f}, test accuracy {fast:.3f}, "
            f"averaged {accuracy(model, test):.3f}"
        )
        saved = {name: part.state_dict() for name, part in parts.items()}
        torch.save(saved | {"order": order.get_state(), "epoch": epoch + 1}, file)
    torch.save(model.state_dict(), options.out / "final.pt")


if __name__ == "__main__":
    main()
