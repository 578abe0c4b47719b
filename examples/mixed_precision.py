"""A plain loop in 16 bit: autocast to bf16, or to fp16 with a GradScaler; saving and resuming.

    python examples/mixed_precision.py --out runs/amp --precision fp16
    python examples/mixed_precision.py --out runs/amp --precision fp16 --resume

docs/howto/mixed-precision.md explains the settings.
"""

import argparse
from pathlib import Path

import torch
from real_data import accuracy, cnn, digits
from torch.nn import functional as F
from torch.optim.swa_utils import update_bn
from torch.utils.data import DataLoader

from normball import ClippedScion, param_groups

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def main() -> None:
    """Train epoch by epoch, and save a checkpoint after each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--precision", choices=DTYPES, default="bf16")
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--stop-after", type=int)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    file = options.out / "checkpoint.pt"

    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    train, test = digits()
    model = cnn().to(device)
    optimizer = ClippedScion(param_groups(model), average=0.1)
    order = torch.Generator().manual_seed(0)
    loader = DataLoader(train, batch_size=64, shuffle=True, drop_last=True, generator=order)
    # bf16 has the range of fp32 and needs no scaler: this one then does nothing.
    scaler = torch.amp.GradScaler(device, enabled=options.precision == "fp16")

    parts = {"model": model, "optimizer": optimizer, "scaler": scaler}
    first = 0
    if options.resume:
        saved = torch.load(file, weights_only=True)
        for name, part in parts.items():
            part.load_state_dict(saved[name])
        order.set_state(saved["order"])
        first = saved["epoch"]

    for epoch in range(first, options.stop_after or options.epochs):
        total = 0.0
        for x, y in loader:
            with torch.autocast(device, DTYPES[options.precision]):
                loss = F.cross_entropy(model(x.to(device)), y.to(device))
            optimizer.zero_grad()
            scaler.scale(loss).backward()
            # The scaler takes its factor out of the gradients before the optimizer sees them, so
            # rho keeps its unit. No clip_grad_norm_: the threshold is inside.
            scaler.step(optimizer)
            scaler.update()
            total += float(loss.detach()) / len(loader)
        seen = optimizer.metrics()
        print(
            f"epoch {epoch + 1}: loss {total:.3f}, dual norm {float(seen['dual_norm']):.1f}, "
            f"clipped {float(seen['clipped_share']):.0%}, scale {scaler.get_scale():g}"
        )
        saved = {name: part.state_dict() for name, part in parts.items()}
        torch.save(saved | {"order": order.get_state(), "epoch": epoch + 1}, file)
    optimizer.eval()  # the averaged weights into the model
    update_bn(loader, model, device)  # its statistics were those of the fast weights
    print(f"test accuracy {accuracy(model.cpu(), test):.3f}")
    torch.save(model.state_dict(), options.out / "final.pt")


if __name__ == "__main__":
    main()
