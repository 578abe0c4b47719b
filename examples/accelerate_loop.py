"""The digits with Accelerate: gradient accumulation, averaged weights, saving and resuming.

    python examples/accelerate_loop.py --out runs/accelerate
    python examples/accelerate_loop.py --out runs/accelerate --resume
    accelerate launch --num_processes 2 examples/accelerate_loop.py --out runs/accelerate

docs/howto/accelerate.md explains the settings.
"""

import argparse
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import DataLoaderConfiguration, set_seed
from real_data import accuracy, cnn, digits
from torch.nn import functional as F
from torch.optim.swa_utils import update_bn
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
    optimizer = ClippedScion(param_groups(model), average=0.1)
    loader = DataLoader(train, batch_size=64, shuffle=True, drop_last=True)
    model, optimizer, loader = accelerator.prepare(model, optimizer, loader)

    file, first = options.out / "state", 0
    if options.resume:
        accelerator.load_state(str(file))
        first = int((file / "epoch").read_text())
    for epoch in range(first, options.stop_after or options.epochs):
        loader.set_epoch(epoch)
        optimizer.train()  # the fast weights back into the model
        total = 0.0
        for x, y in loader:
            with accelerator.accumulate(model):
                loss = F.cross_entropy(model(x), y)
                accelerator.backward(loss)  # no clip_grad_norm_: the threshold is inside
                optimizer.step()
                optimizer.zero_grad()
            total += float(loss.detach()) / len(loader)
        optimizer.eval()  # the averaged weights into the model, also for the checkpoint
        accelerator.save_state(str(file))
        if accelerator.is_main_process:
            (file / "epoch").write_text(str(epoch + 1))
        seen = optimizer.optimizer.metrics()
        accelerator.print(
            f"epoch {epoch + 1}: loss {total:.3f}, dual norm {float(seen['dual_norm']):.1f}, "
            f"clipped {float(seen['clipped_share']):.0%}"
        )
    inner = accelerator.unwrap_model(model)
    update_bn(loader, inner)  # its statistics were those of the fast weights
    accelerator.print(f"test accuracy {accuracy(inner, test):.3f}")
    accelerator.save(inner.state_dict(), options.out / "final.pt")


if __name__ == "__main__":
    main()
