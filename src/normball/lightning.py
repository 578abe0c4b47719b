"""Averaged weights in Lightning: a callback, for both names of the Lightning package."""

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    Callback = object  # checked without Lightning, whose own types take minutes
else:

    def _base() -> type:
        """Return the base class of the package that is imported already, or else is installed."""
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
    """Trains the fast weights; validates, saves and ends the fit with the averaged weights.

    The callback calls `train()` before every training batch. It calls `eval()` before validation,
    at the end of an epoch, when a checkpoint is written, and when the fit ends or stops with an
    error. It does so for each of the trainer's optimizers that has both methods. So the
    `state_dict` of a checkpoint holds the averaged weights, which were validated, and
    `fit(ckpt_path=...)` continues with the fast weights, bit for bit. After `fit` the module holds
    the averaged weights, and `test`, `predict` and `validate` use them. If these three load weights
    from a checkpoint, the callback does not change those.

    A `ModelCheckpoint` with `save_weights_only` calls no callback: within an epoch
    (`every_n_train_steps`, `train_time_interval`) it saves the fast weights.

    Examples:
        >>> import lightning
        >>> from normball.lightning import AverageWeights
        >>> trainer = lightning.Trainer(max_epochs=2, callbacks=[AverageWeights()])
        >>> trainer.fit(module, loader)  # doctest: +SKIP
    """

    def on_train_batch_start(self, trainer: Any, *_: Any) -> None:
        """Put the fast weights back into the module."""
        _each(trainer, "train")

    def on_validation_start(self, trainer: Any, *_: Any) -> None:
        """Put the averaged weights into the module, if this validation is part of a fit."""
        if trainer.state.fn == "fit":
            _each(trainer, "eval")

    def on_train_epoch_end(self, trainer: Any, *_: Any) -> None:
        """Put the averaged weights into the module, before checkpoints are written."""
        _each(trainer, "eval")

    def on_train_end(self, trainer: Any, *_: Any) -> None:
        """Put the averaged weights into the module."""
        _each(trainer, "eval")

    def on_exception(self, trainer: Any, *_: Any) -> None:
        """Put the averaged weights into the module when the fit stops with an error."""
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
