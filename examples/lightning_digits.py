"""The digits with Lightning: averaged weights, validation, checkpoints and resuming.

    python examples/lightning_digits.py --out runs/lightning
    python examples/lightning_digits.py --out runs/lightning --resume

docs/howto/lightning.md explains the settings.
"""

import argparse
from pathlib import Path

import lightning
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from real_data import accuracy, cnn, digits
from torch.nn import functional as F
from torch.optim.swa_utils import update_bn
from torch.utils.data import DataLoader, DistributedSampler

from normball import ClippedScion, param_groups
from normball.lightning import AverageWeights


class Digits(lightning.LightningModule):
    """A network for the digits, trained by Clipped Scion."""

    def __init__(self) -> None:
        super().__init__()
        self.net = cnn()

    def training_step(self, batch, _):
        """Return the loss of a batch."""
        x, y = batch
        loss = F.cross_entropy(self.net(x), y)
        self.log("loss", loss, on_step=False, on_epoch=True)
        return loss

    def validation_step(self, batch, _):
        """Log the accuracy of the averaged weights."""
        x, y = batch
        self.log("accuracy", (self.net(x).argmax(1) == y).float().mean())

    def on_train_epoch_end(self):
        """Log what the optimizer saw, once an epoch."""
        seen = self.optimizers().optimizer.metrics()
        self.log_dict({name: seen[name] for name in ("dual_norm", "clipped_share", "skipped")})

    def configure_optimizers(self):
        """Return the optimizer; the average stands in for a schedule."""
        return ClippedScion(param_groups(self), average=0.1)


class StopAfter(lightning.Callback):
    """Ends a run early, as a machine that goes away would, for trying `--resume`."""

    def __init__(self, epochs: int) -> None:
        self.epochs = epochs

    def on_train_epoch_end(self, trainer, _):
        """Stop once so many epochs are done."""
        trainer.should_stop = trainer.current_epoch + 1 >= self.epochs


def main() -> None:
    """Train, with a checkpoint after every epoch."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--stop-after", type=int)
    options = parser.parse_args()

    lightning.seed_everything(0)
    train, test = digits()
    # This sampler's order depends on the epoch alone, so that a resumed run finds its place.
    sampler = DistributedSampler(train, num_replicas=1, rank=0, drop_last=True)
    loader = DataLoader(train, batch_size=64, sampler=sampler, drop_last=True)
    held_out = DataLoader(test, batch_size=len(test))
    callbacks = [AverageWeights(), ModelCheckpoint(options.out, save_last=True, save_top_k=0)]
    if options.stop_after is not None:
        callbacks.append(StopAfter(options.stop_after))
    trainer = lightning.Trainer(
        max_epochs=options.epochs,
        gradient_clip_val=None,  # the threshold is inside the optimizer
        accelerator="cpu",
        devices=1,
        logger=CSVLogger(options.out),
        log_every_n_steps=5,
        callbacks=callbacks,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    model = Digits()
    last = options.out / "last.ckpt" if options.resume else None
    trainer.fit(model, loader, held_out, ckpt_path=last)
    for name, value in sorted(trainer.logged_metrics.items()):
        print(f"{name} {float(value):.3f}")
    update_bn(loader, model.net)  # its statistics were those of the fast weights
    print(f"test accuracy {accuracy(model.net, test):.3f}")
    torch.save(model.net.state_dict(), options.out / "final.pt")


if __name__ == "__main__":
    main()
