"""Three of torch's schedules: warm-up and cosine, one cycle, and halving on a plateau.

    python examples/schedules.py --out runs/schedules --schedule cosine
    python examples/schedules.py --out runs/schedules --schedule cosine --resume

docs/howto/schedulers.md explains the settings.
"""

import argparse
from pathlib import Path

import torch
from real_data import accuracy, cnn, digits
from torch.nn import functional as F
from torch.optim import Optimizer
from torch.optim.lr_scheduler import (
    CosineAnnealingLR,
    LinearLR,
    LRScheduler,
    OneCycleLR,
    ReduceLROnPlateau,
    SequentialLR,
)
from torch.utils.data import DataLoader

from normball import ClippedScion, param_groups

LR = 2**-5


def schedule(name: str, optimizer: Optimizer, steps: int) -> LRScheduler:
    """Return a schedule for so many steps."""
    if name == "cosine":
        warm_up = LinearLR(optimizer, 0.1, 1.0, total_iters=steps // 10)
        cosine = CosineAnnealingLR(optimizer, steps - steps // 10)
        return SequentialLR(optimizer, [warm_up, cosine], [steps // 10])
    if name == "one-cycle":
        # alpha is no momentum to be cycled: it also sets the scale that rho is compared with.
        return OneCycleLR(optimizer, max_lr=LR, total_steps=steps, cycle_momentum=False)
    return ReduceLROnPlateau(optimizer, factor=0.5, patience=1)


def main() -> None:
    """Train, and print the step size of every epoch beside its loss."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--schedule", choices=("cosine", "one-cycle", "plateau"), default="cosine")
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--stop-after", type=int)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    file = options.out / "checkpoint.pt"

    torch.manual_seed(0)
    train, test = digits()
    model = cnn()
    optimizer = ClippedScion(param_groups(model, output_radius=200), lr=LR, rho=16.0, alpha=0.5)
    order = torch.Generator().manual_seed(0)
    loader = DataLoader(train, batch_size=64, shuffle=True, drop_last=True, generator=order)
    scheduler = schedule(options.schedule, optimizer, options.epochs * len(loader))
    parts = {"model": model, "optimizer": optimizer, "scheduler": scheduler}
    first = 0
    if options.resume:
        saved = torch.load(file, weights_only=True)
        for name, part in parts.items():
            part.load_state_dict(saved[name])
        order.set_state(saved["order"])
        first = saved["epoch"]
    for epoch in range(first, options.stop_after or options.epochs):
        total, lr = 0.0, optimizer.param_groups[0]["lr"]
        for x, y in loader:
            optimizer.zero_grad()
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()
            if options.schedule != "plateau":
                scheduler.step()
            total += float(loss.detach()) / len(loader)
        if options.schedule == "plateau":
            scheduler.step(total)
        print(f"epoch {epoch + 1}: lr {lr:.4f}, loss {total:.3f}")
        saved = {name: part.state_dict() for name, part in parts.items()}
        torch.save(saved | {"order": order.get_state(), "epoch": epoch + 1}, file)
    print(f"test accuracy {accuracy(model, test):.3f}")
    torch.save(model.state_dict(), options.out / "final.pt")


if __name__ == "__main__":
    main()
