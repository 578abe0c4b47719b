"""Averaged weights and the step size in Lightning: callbacks, for both names of the package."""

import inspect
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from copy import copy
from importlib import import_module
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from normball.optim import LrCurve, find_lr
from normball.optim.finder import same_random_numbers

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

__all__ = ["AverageWeights", "LrFinder"]


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

    The callback warns if `gradient_clip_val` would clip the gradients before a threshold `rho` sees
    them.

    Examples:
        >>> import lightning
        >>> from normball.lightning import AverageWeights
        >>> trainer = lightning.Trainer(max_epochs=2, callbacks=[AverageWeights()])
        >>> trainer.fit(module, loader)  # doctest: +SKIP
    """

    def on_train_start(self, trainer: Any, _: Any) -> None:
        """Warn of a second threshold."""
        value = trainer.gradient_clip_val
        groups = [group for optimizer in trainer.optimizers for group in optimizer.param_groups]
        if value and any("rho" in group for group in groups):
            warnings.warn(
                f"gradient_clip_val={value} clips gradients before the optimizer sees them, so rho "
                "is compared with clipped ones: leave it None in the Trainer, the threshold is "
                "inside the optimizer",
                UserWarning,
                stacklevel=2,
            )

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


class LrFinder(Callback):
    """Runs `find_lr` with the module's own batches and `training_step`, before the first step.

    Afterwards the weights and the optimizer, its `lr` included, and torch's random numbers are as
    before, and the fit goes on as it would have without the callback. So a fit of one step
    (`max_steps=1`) is enough to see the curve. With `accumulate_grad_batches` every step of the
    test has as many batches as one of the fit. What `training_step` logs meanwhile is dropped;
    other callbacks see none of these steps.

    Args:
        options: for `find_lr`: `low`, `high`, `steps`.

    Attributes:
        curve: what `find_lr` returned, or None before the fit.

    Raises:
        ValueError: when the fit begins: with more than one optimizer, manual optimization or the
            precision `"16-mixed"`, or what `find_lr` refuses.

    Examples:
        >>> import lightning
        >>> from normball.lightning import LrFinder
        >>> finder = LrFinder(steps=50)
        >>> trainer = lightning.Trainer(max_steps=1, callbacks=[finder])
        >>> trainer.fit(module, loader)  # doctest: +SKIP
        >>> finder.curve.suggestion  # doctest: +SKIP
    """

    def __init__(self, **options: Any) -> None:
        self.options = options
        self.curve: LrCurve | None = None

    def on_train_start(self, trainer: Any, module: Any) -> None:
        """Take growing steps, and undo them."""
        if len(trainer.optimizers) != 1 or not module.automatic_optimization:
            raise ValueError(
                f"LrFinder needs one optimizer, which Lightning steps: this module has "
                f"{len(trainer.optimizers)}, automatic_optimization={module.automatic_optimization}"
            )
        if getattr(trainer.precision_plugin, "scaler", None) is not None:
            raise ValueError(
                'LrFinder does not know the scale of fp16\'s gradients: use precision="bf16-mixed" '
                "or None for this run"
            )
        (optimizer,), strategy = trainer.optimizers, trainer.strategy
        batches, count = _endless(trainer.train_dataloader), trainer.accumulate_grad_batches
        numbered = len(inspect.signature(module.training_step).parameters) > 1

        def closure() -> Tensor:
            optimizer.zero_grad()
            total = torch.zeros((), device=strategy.root_device)
            for _ in range(count):
                index, batch = next(batches)
                batch = strategy.batch_to_device(batch)
                loss = strategy.training_step(*((batch, index) if numbered else (batch,)))
                loss = (loss["loss"] if isinstance(loss, dict) else loss) / count
                strategy.backward(loss, optimizer)
                total += loss.detach()
            mean: Tensor = strategy.reduce(total, reduce_op="mean")
            return mean

        with same_random_numbers(strategy.root_device), _unlogged(module):
            self.curve = find_lr(optimizer, closure, model=module, **self.options)


def _endless(loaders: Any) -> Iterator[tuple[int, Any]]:
    """Yield numbered batches, pass after pass, of the loaders as Lightning combines them."""
    package = Callback.__module__.rsplit(".callbacks", 1)[0]
    combine = import_module(f"{package}.utilities.combined_loader").CombinedLoader

    def own(loader: Any) -> Any:
        # Loaders with persistent workers have one iterator, and the fit has begun with it.
        loader = copy(loader)
        if getattr(loader, "_iterator", None) is not None:
            loader._iterator = None
        return loader

    combined = combine(loaders, "max_size_cycle")
    combined.flattened = [own(loader) for loader in combined.flattened]
    while True:
        for batch, index, _ in combined:
            yield index, batch


@contextmanager
def _unlogged(module: Any) -> Iterator[None]:
    module.log = lambda *_, **__: None
    try:
        yield
    finally:
        del module.log


def _each(trainer: Any, mode: str) -> None:
    for optimizer in trainer.optimizers:
        if callable(change := getattr(optimizer, mode, None)):
            change()
