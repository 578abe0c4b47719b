"""Hugging Face's Trainer: its optimizer, its averaged weights and its step size."""

import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from normball.groups import param_groups
from normball.optim import ClippedScion, LrCurve, find_lr
from normball.optim.finder import same_random_numbers

if TYPE_CHECKING:
    TrainerCallback = object  # checked without transformers, whose own types take minutes
else:
    try:
        from transformers import TrainerCallback
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "normball.transformers needs transformers and accelerate: "
            "pip install transformers accelerate",
            name=error.name,
        ) from error

__all__ = ["AverageWeights", "LrFinder", "TrainerMixin"]


class TrainerMixin:
    """Gives a Trainer an optimizer that belongs to its model.

    Put it before the Trainer's class. Every time the Trainer needs an optimizer, the mixin calls
    `build_optimizer` with the model that is going to be trained. So it works with `model=` and with
    `model_init=`, which makes a new model for every `train()` and for every trial of a
    hyper-parameter search. It warns where the Trainer would clip the gradients before a threshold
    `rho` sees them. Logs have the metrics `dual_norm` and `clipped_share` beside the loss.

    Examples:
        >>> from transformers import Trainer
        >>> from normball import ClippedScion, param_groups
        >>> from normball.transformers import TrainerMixin
        >>> class ClippedTrainer(TrainerMixin, Trainer):
        ...     def build_optimizer(self, model):
        ...         return ClippedScion(param_groups(model), lr=2**-5, average=0.1)
    """

    args: Any
    model: nn.Module
    optimizer: Any
    optimizer_cls_and_kwargs: Any

    def build_optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        """Return the optimizer of a model; override it for other settings.

        `self.args` has the training arguments, and in a search the values of the trial.

        Args:
            model: the one that the Trainer is going to train.

        Examples:
            >>> import torch
            >>> from normball.transformers import TrainerMixin
            >>> TrainerMixin().build_optimizer(torch.nn.Linear(8, 3)).defaults["average"]
            0.1
        """
        return ClippedScion(param_groups(model), average=0.1)

    def create_optimizer(self, *model: nn.Module) -> torch.optim.Optimizer:
        """Make the optimizer, if there is none yet; the Trainer calls this.

        Args:
            model: the one to train, if it is not `self.model`.

        Raises:
            ValueError: the Trainer has `optimizer_cls_and_kwargs` as well.
        """
        if self.optimizer is None:
            if self.optimizer_cls_and_kwargs is not None:
                raise ValueError(
                    "optimizer_cls_and_kwargs is given, and TrainerMixin builds the optimizer: "
                    "remove the argument, and write its settings into build_optimizer"
                )
            self.optimizer = self.build_optimizer(*(model or (self.model,)))
        _warn_of_clipping(self.args.max_grad_norm, self.optimizer)
        optimizer: torch.optim.Optimizer = self.optimizer
        return optimizer

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Add what the optimizer saw to the logs; here, and not in the step, the host waits for it.

        Args:
            logs: the values to report.
            args: for the Trainer.
            kwargs: for the Trainer.
        """
        metrics: dict[str, Any] = getattr(_inside(self.optimizer), "metrics", dict)()
        names = metrics.keys() & {"dual_norm", "clipped_share"}
        seen = {name: float(metrics[name]) for name in sorted(names)}
        super().log(logs | seen, *args, **kwargs)  # type: ignore[misc]


class AverageWeights(TrainerCallback):
    """Saved models, and the one at the end, have the averaged weights.

    The Trainer itself calls `optimizer.eval()` before it evaluates, and `train()` before it goes
    on, but nothing before it saves. Put this callback after those that stop the training. Without
    `average=` it changes nothing.

    Examples:
        >>> from transformers import Trainer
        >>> from normball.transformers import AverageWeights
        >>> trainer = Trainer(model, callbacks=[AverageWeights()])  # doctest: +SKIP
    """

    def on_step_end(self, _: Any, __: Any, control: Any, **kwargs: Any) -> None:
        """Put the averaged weights into the model where it is saved next."""
        if control.should_save or control.should_training_stop:
            kwargs["optimizer"].eval()

    on_epoch_end = on_step_end


class LrFinder(TrainerCallback):
    """Runs `find_lr` with the Trainer's own batches and steps, before the first step.

    Afterwards the weights and the optimizer, its `lr` included, and torch's random numbers are as
    before, and the training goes on as it would have without the callback. So a run of one step
    (`max_steps=1`) is enough to see the curve. With gradient accumulation every step of the test
    has as many batches as one of the training.

    Args:
        trainer: the one that gets this callback.
        options: for `find_lr`: `low`, `high`, `steps`.

    Attributes:
        curve: what `find_lr` returned, or None before the training.

    Raises:
        ValueError: when the training begins: with fp16, or what `find_lr` refuses.

    Examples:
        >>> from normball.transformers import LrFinder
        >>> finder = LrFinder(trainer, steps=50)  # doctest: +SKIP
        >>> trainer.add_callback(finder)  # doctest: +SKIP
        >>> trainer.train()  # doctest: +SKIP
        >>> finder.curve.suggestion  # doctest: +SKIP
    """

    def __init__(self, trainer: Any, **options: Any) -> None:
        self.trainer, self.options = trainer, options
        self.curve: LrCurve | None = None

    def on_train_begin(self, args: Any, *_: Any, **kwargs: Any) -> None:
        """Take growing steps, and undo them."""
        trainer, optimizer = self.trainer, _inside(kwargs["optimizer"])
        if getattr(trainer.accelerator, "scaler", None) is not None:
            raise ValueError(
                "LrFinder does not know the scale of fp16's gradients: set bf16=True in its place, "
                "or neither, for this run"
            )
        batches = _endless(trainer.get_train_dataloader())  # the training's own stays where it is

        def closure() -> Tensor:
            optimizer.zero_grad()
            parts, items = trainer.get_batch_samples(
                batches, args.gradient_accumulation_steps, args.device
            )
            trainer.current_gradient_accumulation_steps = len(parts)
            losses = [trainer.training_step(trainer.model_wrapped, part, items) for part in parts]
            mean: Tensor = trainer.accelerator.reduce(torch.stack(losses).sum(), "mean")
            return mean

        kwargs["optimizer"].train()
        training = trainer.model_wrapped.training
        with same_random_numbers(args.device):
            try:
                self.curve = find_lr(optimizer, closure, model=trainer.model, **self.options)
            finally:
                trainer.model_wrapped.train(training)


def _inside(optimizer: Any) -> Any:
    """Return the optimizer inside of Accelerate's wrapper."""
    return getattr(optimizer, "optimizer", optimizer)


def _endless(loader: Any) -> Iterator[Any]:
    """Yield batches, pass after pass."""
    while True:
        empty = True
        for batch in loader:
            empty = False
            yield batch
        if empty:
            raise ValueError("the training data of the Trainer have no batch")


def _warn_of_clipping(max_grad_norm: float | None, optimizer: Any) -> None:
    if max_grad_norm and any("rho" in group for group in _inside(optimizer).param_groups):
        warnings.warn(
            f"max_grad_norm={max_grad_norm} scales gradients down before the optimizer sees them, "
            "so rho is compared with numbers that hardly change: set max_grad_norm=0 in "
            "TrainingArguments, the threshold is inside the optimizer",
            UserWarning,
            stacklevel=3,
        )
