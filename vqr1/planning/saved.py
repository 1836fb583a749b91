"""What the ranks of a sharded run write of a checkpoint, and the largest tensor that one has.

A weight that is sharded goes to disk in as many parts as there are ranks, the first the largest;
one that all ranks hold is written by the rank with the least of such so far. Trained weights are
followed by their two optimizer states. A reference that moves is written too, every weight of it.

Not here: what is in memory during a step (`memory.py`), the writing
(`vqr1.distributed.shard_files`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import nn

from vqr1.config import TrainConfig
from vqr1.planning.memory import Sizes, has_copy
from vqr1.planning.shape import ModelShape
from vqr1.policy.loading import freeze_vision
from vqr1.policy.sharded_modules import sharded_modules


@dataclass(frozen=True)
class SavedShards:
    """Planned bytes of a checkpoint of sharded weights.

    Attributes:
        total: of all ranks.
        rank: of the rank that writes most.
        largest: of the largest tensor that any rank holds or writes.
        sharded: of the largest part of a tensor that is sharded.
    """

    total: int
    rank: int
    largest: int
    sharded: int


def plan_saved(config: TrainConfig, shape: ModelShape) -> SavedShards | None:
    """The bytes of a checkpoint under FSDP2; None under any other strategy.

    Args:
        config: the training's configuration.
        shape: its model.
    """
    if config.hardware.strategy != "fsdp2":
        return None
    ranks = config.hardware.devices * config.hardware.nodes
    size = Sizes.of(config).weight
    with torch.device("meta"):
        model = shape.family.model_class()(shape.config)
    model.requires_grad_(config.model.lora is None)
    freeze_vision(shape.family.parts(model), config.model)
    writes = [0] * ranks
    total = largest = largest_part = 0
    for weight, cut, copies in sorted(_written(config, shape, model), key=lambda found: found[1]):
        total += copies * size * weight.numel()
        if not cut:
            for _ in range(copies):
                writes[writes.index(min(writes))] += size * weight.numel()
            largest = max(largest, size * weight.numel())
            continue
        row = size * weight[0].numel()
        rows = math.ceil(len(weight) / ranks)
        for rank in range(ranks):
            left = max(0, min(rows, len(weight) - rank * rows))
            writes[rank] += copies * row * left
        largest_part = max(largest_part, row * rows)
    adapters = 3 * Sizes.of(config).trained * shape.adapters
    return SavedShards(
        total + adapters,
        max(writes) + adapters // ranks,
        max(largest, largest_part),
        largest_part,
    )


def _written(
    config: TrainConfig, shape: ModelShape, model: nn.Module
) -> list[tuple[nn.Parameter, bool, int]]:
    """Weights that are written, whether they are sharded, and how often as much is written."""
    cut, weights = _sharded(model), list(model.parameters())
    found = [(weight, id(weight) in cut, 3 if weight.requires_grad else 1) for weight in weights]
    if config.grpo.reference_sync_every is not None and has_copy(config, shape):
        # Sharded or not as its own key has it, unlike the policy.
        sharded = config.hardware.reference == "sharded"
        found += [(weight, sharded, 1) for weight in weights]
    return found


def _sharded(model: nn.Module) -> set[int]:
    """Ids of the weights that FSDP2 shards."""
    return {
        id(weight)
        for module in sharded_modules(model)
        for weight in module.root.parameters()
        if weight not in module.full
    }
