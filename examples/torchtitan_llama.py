"""torchtitan's Llama 3 with Clipped Scion, under every parallelism that its trainer offers.

    PYTHONPATH=examples torchrun --nproc-per-node 8 -m torchtitan.train \
        --module torchtitan_llama --config llama3_debugmodel --optimizer.rho 20

Written for torchtitan 0.3.0. The `ModelSpec` names `build`, which the trainer calls with the parts
of the model that this rank holds, and with all meshes. So the optimizer also knows the stages of a
pipeline, and its threshold is one number over the whole model.
"""

from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import nn
from torchtitan.components.optimizer import OptimizersContainer
from torchtitan.distributed import ParallelDims
from torchtitan.models.llama3 import config_registry
from torchtitan.protocols import BaseModel
from torchtitan.trainer import Trainer

from normball import ClippedScion, param_groups


class NormBall(OptimizersContainer):
    """The container that torchtitan's loop, schedules and checkpoints see; `build` fills it."""

    @dataclass(kw_only=True, slots=True)
    class Config(OptimizersContainer.Config):
        """Settings, also on the command line: `--optimizer.lr 0.01`."""

        lr: float = 2**-6
        rho: float = 20.0
        alpha: float = 0.1
        output_radius: float = 200.0

    def __init__(self, config: Config, *, model_parts: list[nn.Module]) -> None:
        self.config, self.model_parts, self.optimizers = config, model_parts, []


def build(
    model: BaseModel.Config, container: NormBall, parts: list[nn.Module], dims: ParallelDims
) -> None:
    """Give the container one optimizer over all parts of the model on this rank."""
    settings = container.config
    with torch.device("meta"):
        plan = param_groups(model.build(), output_radius=settings.output_radius)
    groups = [group for part in parts for group in plan.of(part)]
    optimizer = ClippedScion(
        groups,
        settings.lr,
        rho=settings.rho,
        alpha=settings.alpha,
        stages=dims.get_optional_mesh("pp"),
    )
    container.optimizers.append(optimizer)
    container._post_init([p for group in optimizer.param_groups for p in group["params"]])


def with_norm_balls(config: Trainer.Config, **settings: float) -> Trainer.Config:
    """Return a configuration of torchtitan with this optimizer, and without another clipping."""
    spec = config.model_spec
    config.model_spec = replace(spec, post_optimizer_build_fn=partial(build, spec.model))
    config.optimizer = NormBall.Config(**settings)
    config.training.max_norm = float("inf")
    return config


def llama3_debugmodel() -> Trainer.Config:
    """Return torchtitan's own small model and data."""
    return with_norm_balls(config_registry.llama3_debugmodel())
