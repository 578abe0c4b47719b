"""The digits with Accelerate: gradient accumulation, schedule, saving and resuming.

    python examples/accelerate_loop.py --out runs/accelerate
    python examples/accelerate_loop.py --out runs/accelerate --resume
    accelerate launch --num_processes 2 examples/accelerate_loop.py --out runs/accelerate

docs/howto/accelerate.md explains the settings.
"""

import argparse
import math
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import DataLoaderConfiguration, set_seed
from real_data import accuracy, cnn, digits
from torch.nn import functional as F
from torch.optim.lr_scheduler import LinearLR
from torch.utils.data import DataLoader

from normball import ClippedScion, param_groups


def main() -> None:
    """Train epoch by epoch, and save a state after each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--accumulate", type=int, default=2)
    parser.add_argument("--mixed-precision", choices=("no", "bf16", "fp16"), default="no")
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--stop-after", type=int)
    options = parser.parse_args()

    set_seed(0)
    accelerator = Accelerator(
        cpu=not torch.cuda.is_available(),
        mixed_precision=options.mixed_precision,
        gradient_accumulation_steps=options.accumulate,
        # Its order of the data depends on the epoch alone, so that a resumed run finds its place.
        dataloader_config=DataLoaderConfiguration(use_seedable_sampler=True),
    )
    train, test = digits()
    model = cnn()
    optimizer = ClippedScion(param_groups(model), lr=2**-5, rho=16.0, alpha=0.5)
    loader = DataLoader(train, batch_size=64, shuffle=True, drop_last=True)
    steps = math.ceil(len(loader) / options.accumulate)
    scheduler = LinearLR(optimizer, 1.0, 0.0, total_iters=options.epochs * steps)
    model, optimizer, loader, scheduler = accelerator.prepare(model, optimizer, loader, scheduler)

    if options.resume:
        accelerator.load_state(str(options.out / "state"))
    done = scheduler.scheduler.last_epoch // steps
    for epoch in range(done, options.stop_after or options.epochs):
        loader.set_epoch(epoch)
        total = 0.0
        for x, y in loader:
            with accelerator.accumulate(model):
                loss = F.cross_entropy(model(x), y)
                accelerator.backward(loss)  # no clip_grad_norm_: the threshold is inside
                optimizer.step()
                scheduler.step()
                optimizer.zero_grad()
            total += float(loss.detach()) / len(loader)
        accelerator.save_state(str(options.out / "state"))
        seen = optimizer.optimizer.metrics()
        accelerator.print(
            f"epoch {epoch + 1}: loss {total:.3f}, dual norm {float(seen['dual_norm']):.1f}, "
            f"clipped {float(seen['clipped_share']):.0%}"
        )
    inner = accelerator.unwrap_model(model)
    accelerator.print(f"test accuracy {accuracy(inner, test):.3f}")
    accelerator.save(inner.state_dict(), options.out / "final.pt")


if __name__ == "__main__":
    main()
