"""Averaged weights in Lightning: a callback, for either name of the package."""

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    Callback = object  # checked without Lightning, whose own types take minutes
else:

    def _base() -> type:
        """Return the base class in the package that is imported, or else installed."""
        names = ("lightning.pytorch", "pytorch_lightning")
        for name in sorted(names, key=lambda name: name not in sys.modules):
            try:
                return import_module(name).Callback
            except ModuleNotFoundError as error:
                if error.name not in ("lightning", *names):
                    raise
        raise ModuleNotFoundError(
            "normball.lightning needs Lightning: pip install lightning", name="lightning"
        )

    Callback = _base()

__all__ = ["AverageWeights"]


class AverageWeights(Callback):
    """Validates, saves and ends with the averaged weights, and trains the fast ones.

    It calls `train()` before every training batch and `eval()` before validation, at the end of an
    epoch, when a checkpoint is written, and when the fit ends or breaks off, on each of the
    trainer's optimizers that has the two. So the `state_dict` of a checkpoint holds the averaged
    weights, those that were validated, and `fit(ckpt_path=...)` goes on with the fast ones, bit for
    bit. After `fit` the module holds the averaged weights, which `test`, `predict` and `validate`
    then use; they leave weights alone that were loaded from a checkpoint.

    A `ModelCheckpoint` with `save_weights_only` asks no callback: within an epoch
    (`every_n_train_steps`, `train_time_interval`) it saves the fast weights.

    Examples:
        >>> import lightning
        >>> from normball.lightning import AverageWeights
        >>> trainer = lightning.Trainer(max_epochs=2, callbacks=[AverageWeights()])
        >>> trainer.fit(module, loader)  # doctest: +SKIP
    """

    def on_train_batch_start(self, trainer: Any, *_: Any) -> None:
        """Take the fast weights back."""
        _each(trainer, "train")

    def on_validation_start(self, trainer: Any, *_: Any) -> None:
        """Put the averaged weights into the module, unless this is no validation within a fit."""
        if trainer.state.fn == "fit":
            _each(trainer, "eval")

    def on_train_epoch_end(self, trainer: Any, *_: Any) -> None:
        """Put the averaged weights into the module, before checkpoints are written."""
        _each(trainer, "eval")

    def on_train_end(self, trainer: Any, *_: Any) -> None:
        """Put the averaged weights into the module."""
        _each(trainer, "eval")

    def on_exception(self, trainer: Any, *_: Any) -> None:
        """Put the averaged weights into the module, also where the fit breaks off."""
        _each(trainer, "eval")

    def on_save_checkpoint(self, trainer: Any, _: Any, checkpoint: dict[str, Any]) -> None:
        """Put the averaged weights into the module and into the checkpoint."""
        _each(trainer, "eval")
        strategy = trainer.strategy
        checkpoint["state_dict"] = strategy.lightning_module_state_dict()
        states = [strategy.optimizer_state(optimizer) for optimizer in trainer.optimizers]
        checkpoint["optimizer_states"] = states


def _each(trainer: Any, mode: str) -> None:
    for optimizer in trainer.optimizers:
        if callable(change := getattr(optimizer, mode, None)):
            change()
