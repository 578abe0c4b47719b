"""torchtitan's Llama 3 and DeepSeek-V3 with Clipped Scion, under every parallelism it offers.

    PYTHONPATH=examples torchrun --nproc-per-node 8 -m torchtitan.train \
        --module torchtitan_llama --config llama3_debugmodel --optimizer.rho 20

Written for torchtitan 0.3.0. The `ModelSpec` names `build`, which the trainer calls with the parts
of the model that this rank holds, and with all meshes. So the optimizer also knows the stages of a
pipeline, and its threshold is one number over the whole model.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import nn
from torchtitan.components.optimizer import OptimizersContainer
from torchtitan.distributed import ParallelDims
from torchtitan.models.deepseek_v3 import config_registry as deepseek
from torchtitan.models.llama3 import config_registry as llama
from torchtitan.protocols import BaseModel
from torchtitan.trainer import Trainer

from normball import ClippedScion, param_groups
from normball.norms import Spectral

EXPERTS = "*.inner_experts.w[123]_E*"  # stacks of matrices (experts, out, in)


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
    model: BaseModel.Config,
    then: Callable[..., None] | None,
    container: NormBall,
    parts: list[nn.Module],
    dims: ParallelDims,
) -> None:
    """Give the container one optimizer over all parts of the model on this rank.

    And call what the model itself has for this place, such as the balancing of experts.
    """
    settings = container.config
    with torch.device("meta"):
        whole = model.build()
    experts = any("inner_experts" in name for name, _ in whole.named_modules())
    plan = param_groups(
        whole,
        output_radius=settings.output_radius,
        overrides={EXPERTS: {"norm": Spectral()}} if experts else None,
    )
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
    if then is not None:
        then(container, parts, dims)


def with_norm_balls(config: Trainer.Config, **settings: float) -> Trainer.Config:
    """Return a configuration of torchtitan with this optimizer, and without another clipping."""
    spec = config.model_spec
    hook = partial(build, spec.model, spec.post_optimizer_build_fn)
    config.model_spec = replace(spec, post_optimizer_build_fn=hook)
    config.optimizer = NormBall.Config(**settings)
    config.training.max_norm = float("inf")
    return config


def llama3_debugmodel() -> Trainer.Config:
    """Return torchtitan's own small model and data."""
    return with_norm_balls(llama.llama3_debugmodel())


def deepseek_v3_debugmodel() -> Trainer.Config:
    """Return the same of a mixture of experts."""
    return with_norm_balls(deepseek.deepseek_v3_debugmodel())
