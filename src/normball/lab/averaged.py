"""Networks as they are measured: averaged weights, and statistics of batch norm that fit them."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


@contextmanager
def measured(model: nn.Module, optimizer: Any, inputs: Iterable[Tensor]) -> Iterator[None]:
    """The model in the state to be measured; afterwards back in the state for training.

    Args:
        optimizer: if it has ``eval`` and ``train``, they are called before and after.
        inputs: some mini-batches of training inputs; batch norms take their mean statistics. They
            are read only if there is a batch norm.
    """
    averages = hasattr(optimizer, "eval")
    kept = {name: buffer.clone() for name, buffer in model.named_buffers()}
    if averages:
        optimizer.eval()
    _gather_statistics(model, inputs)
    model.eval()
    with torch.no_grad():
        yield
    model.train()
    if averages:
        optimizer.train()
    for name, buffer in model.named_buffers():
        buffer.copy_(kept[name])


def _gather_statistics(model: nn.Module, inputs: Iterable[Tensor]) -> None:
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    if not norms:
        return
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain mean
    model.train()
    with torch.no_grad():
        for x in inputs:
            model(x)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
