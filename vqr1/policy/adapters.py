"""Adapters (LoRA) as the passes use them.

peft casts the input of every adapted layer to the adapters' float32, and autocast casts it back: a
launch and a float32 copy a layer, which the backward pass keeps. Under autocast the cast is left
out; the products are the same.

While responses are sampled adapters are merged (`sampling_weights.py`).

Not here: which layers get adapters (`loading.py`), merging for an export (`export.py`).
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor, nn


@cache
def lean_class() -> type[nn.Module]:
    """An adapted linear layer whose input keeps its type under autocast."""
    # Where nothing is adapted peft need not be installed.
    from peft.tuners.lora.layer import Linear

    class LeanLoraLinear(Linear):
        """peft's, without the cast of the input."""

        def _cast_input_dtype(self, x: Tensor | None, dtype: torch.dtype) -> Any:
            if x is not None and torch.is_autocast_enabled(x.device.type):
                return x
            return super()._cast_input_dtype(x, dtype)

    return LeanLoraLinear


def lean_adapters(model: nn.Module) -> int:
    """Changes the class of a model's adapted layers, in place; returns how many there are."""
    from peft.tuners.lora.layer import Linear

    plain = [module for module in model.modules() if type(module) is Linear]
    for module in plain:
        module.__class__ = lean_class()
    return len(plain)


def is_adapted(module: Any) -> bool:
    """Whether a module is a linear layer of plain weights with active adapters."""
    if not (hasattr(module, "lora_A") and hasattr(module, "get_base_layer")):
        return False
    base = module.get_base_layer()
    return (
        isinstance(base, nn.Linear)
        and base.weight.is_floating_point()
        and not module.merged
        and not module.disable_adapters
        and not any(module.use_dora.values())
    )


@torch.no_grad()
def merged_weight(module: Any) -> Tensor:
    """[O, I] weight of an adapted layer with its adapters, in the weight's type."""
    base: Tensor = module.get_base_layer().weight
    merged = base.float()
    for name in module.active_adapters:
        if name in module.lora_A:
            merged = merged + module.get_delta_weight(name).float()
    return merged.to(base.dtype)
