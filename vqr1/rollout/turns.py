"""How many tokens are decoded together: a number, or what the device's free memory holds.

A decoding step reads every weight, however many responses it continues: few large turns are faster
than many small ones, as long as their keys and values fit.

Not here: how a turn is decoded (`local.py`).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vqr1.policy.unwrap import parts_of

CPU_TOKENS = 16384
"""On a CPU, whose caches gain nothing from more."""

GPU_TOKENS = 131_072
"""On a GPU at most where nothing is known of its memory, as in a plan."""

SHARE = 0.5
"""Of free memory, for keys and values; logits and what lies between two layers need room too."""


def turn_tokens(wanted: int | None, gpu: bool, free: float | None = None, entry: int = 1) -> int:
    """Key-value entries that are decoded together.

    Args:
        wanted: `rollout.micro_batch_tokens`; None chooses.
        gpu: the device is one.
        free: bytes of its memory that are free; None where it cannot be asked.
        entry: bytes of one entry.
    """
    if wanted is not None:
        return wanted
    if not gpu:
        return CPU_TOKENS
    return GPU_TOKENS if free is None else max(CPU_TOKENS, int(SHARE * free / entry))


def entry_bytes(model: nn.Module) -> int:
    """Bytes of one token's keys and values in all layers of a policy, in 16 bits under autocast."""
    parts = parts_of(model)
    config = parts.text.config
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    weight: Tensor = parts.embeddings.weight
    size = 2 if torch.is_autocast_enabled(weight.device.type) else weight.element_size()
    return int(2 * config.num_hidden_layers * config.num_key_value_heads * head * size)


def free_memory(device: torch.device) -> float | None:
    """Bytes that are free for this process on a GPU, PyTorch's own reserve included."""
    if device.type != "cuda":
        return None
    free, _ = torch.cuda.mem_get_info(device)
    reserved = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return float(free + reserved)
