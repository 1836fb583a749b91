"""AdamW, and learning-rate schedules as a pure function of the step."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from vqr1.config import OptimizerConfig
from vqr1.distributed.sharding import is_sharded, split_parameters
from vqr1.policy.loading import trainable_parameters
from vqr1.policy.unwrap import parts_of


def adamw(
    model: nn.Module, config: OptimizerConfig, total_steps: int
) -> tuple[torch.optim.AdamW, torch.optim.lr_scheduler.LambdaLR]:
    """AdamW over all trainable parameters, and its schedule."""
    trained = trainable_parameters(model)
    optimizer = torch.optim.AdamW(
        parameter_groups(model, config),
        lr=config.lr,
        betas=config.betas,
        weight_decay=config.weight_decay,
        # One kernel for all weights; the other ways keep a float32 copy of all of them meanwhile.
        fused=True if trained and trained[0].device.type != "cpu" else None,
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: learning_rate_factor(step, total_steps, config)
    )
    return optimizer, schedule


def parameter_groups(
    model: nn.Module,
    config: OptimizerConfig,
    is_piece: Callable[[nn.Parameter], bool] = is_sharded,
) -> list[dict[str, Any]]:
    """The trainable parameters by learning rate, those of `lr` first; sharded before whole ones.

    Args:
        model: the policy.
        config: learning rates.
        is_piece: which parameters are sharded.
    """
    own: dict[float, list[nn.Parameter]] = {config.lr: trainable_parameters(model)}
    if config.lr_connector is not None:
        apart = {id(parameter) for parameter in parts_of(model).connector.parameters()}
        (everything,) = own.values()
        own = {config.lr: [p for p in everything if id(p) not in apart]}
        own.setdefault(config.lr_connector, []).extend(p for p in everything if id(p) in apart)
    # A fused update takes whole and sharded weights apart only.
    return [
        {"params": group, "lr": rate}
        for rate, parameters in own.items()
        for group in split_parameters(parameters, is_piece)
        if group
    ]


def learning_rate_factor(step: int, total_steps: int, config: OptimizerConfig) -> float:
    """Learning rate of a step relative to its peak.

    Args:
        step: optimiser steps taken so far, from 0.
        total_steps: optimiser steps in all.
        config: schedule, warm-up steps and final fraction.

    Returns:
        Rises linearly from 1 / warmup_steps to 1 over the warm-up, then follows the schedule down
        to `final_fraction` at `total_steps`.
    """
    if step < config.warmup_steps:
        return (step + 1) / config.warmup_steps
    if config.schedule == "constant":
        return 1.0
    span = max(total_steps - config.warmup_steps, 1)
    progress = min((step - config.warmup_steps) / span, 1.0)
    if config.schedule == "cosine":
        left = (1.0 + math.cos(math.pi * progress)) / 2.0
    else:
        left = 1.0 - progress
    return config.final_fraction + (1.0 - config.final_fraction) * left
