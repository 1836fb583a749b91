"""Which parts of a policy are sharded between ranks, and which weights stay full.

Blocks of the text model, and of a vision tower that trains. The token embedding (which is the
output head where the two are tied) is used by the shared-prompt passes outside of the model's own
forward pass and stays full on every rank; so does a frozen tower, whose features are kept.

Not here: how they are sharded (`vqr1.distributed.sharding`, `vqr1.distributed.deepspeed`).
"""

from __future__ import annotations

from torch import nn

from vqr1.distributed.sharding import ShardedModule
from vqr1.policy.loading import vision_trains
from vqr1.policy.unwrap import family_of, parts_of


def sharded_modules(model: nn.Module) -> list[ShardedModule]:
    """What FSDP2 shards of a policy.

    Args:
        model: the policy, with or without adapters.
    """
    parts = parts_of(model)
    full = frozenset({parts.embeddings.weight})
    modules = [ShardedModule(parts.text, parts.text_layers, full)]
    if vision_trains(model):
        # A list has no pass of its own, in which its weights would be unsharded.
        several = isinstance(parts.vision, nn.ModuleList)
        roots = list(parts.vision) if several else [parts.vision]
        blocks = set(parts.vision_layers)
        for root in roots:
            own = [module for module in root.modules() if module in blocks]
            modules.append(ShardedModule(root, own))
    return modules


def external_weights(model: nn.Module) -> list[tuple[nn.Module, nn.Parameter]]:
    """Weights that a module other than their own uses, each with that module."""
    return family_of(model).external_weights(parts_of(model))
