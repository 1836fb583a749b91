"""Weights as sampling reads them under autocast: in bfloat16, adapters merged.

A decoding step reads every weight for a few rows. Under autocast it would read float32 weights and
write bfloat16 ones at every token, four times the bytes, and adapters are two products and their
casts a layer more. For the length of a rollout the linear layers of the text model and its head
therefore have bfloat16 weights: what autocast would make of them, and for adapted layers what it
would make of weight plus adapter. The embedding stays, also where the head shares it.

Not here: what other passes read; without autocast, sampling reads the weights as they are.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from vqr1.policy.adapters import is_adapted, merged_weight
from vqr1.policy.unwrap import parts_of

HALF = torch.bfloat16


def sampling_weights(model: nn.Module) -> AbstractContextManager[bool]:
    """`half_weights` where it gains: under autocast to bfloat16."""
    kind = parts_of(model).embeddings.weight.device.type
    if not torch.is_autocast_enabled(kind):
        return nullcontext(False)
    return half_weights(model) if torch.get_autocast_dtype(kind) == HALF else nullcontext(False)


@contextmanager
def half_weights(model: nn.Module) -> Iterator[bool]:
    """Inside the block the text model's linear layers have bfloat16 weights, adapters merged.

    Afterwards they have the same parameters as before; gradients must not be recorded inside.

    Args:
        model: the policy, bare or wrapped.

    Yields:
        Whether any weight is a copy, which ends with the block.
    """
    parts = parts_of(model)
    replaced: list[tuple[nn.Module, str, Any]] = []
    adapted: list[Any] = []
    try:
        with torch.no_grad():
            for module in (*parts.text_layers.modules(), *parts.head.modules()):
                if is_adapted(module):
                    _put(replaced, module.get_base_layer(), "weight", merged_weight(module))
                    adapted.append((module, module._disable_adapters))
                    module._disable_adapters = True
            taken = {id(module) for module, *_ in replaced}
            for module in (*parts.text_layers.modules(), *parts.head.modules()):
                if isinstance(module, nn.Linear) and id(module) not in taken:
                    _put(replaced, module, "weight", module.weight)
                    _put(replaced, module, "bias", module.bias)
        yield bool(replaced)
    finally:
        for module, name, parameter in reversed(replaced):
            module._parameters[name] = parameter
        for module, disabled in adapted:
            module._disable_adapters = disabled


def _put(
    replaced: list[tuple[nn.Module, str, Any]], module: Any, name: str, value: Tensor | None
) -> None:
    """Gives a layer a parameter in bfloat16, where it is none yet."""
    kept = module._parameters[name]
    if value is None or not value.is_floating_point() or (value is kept and kept.dtype == HALF):
        return
    replaced.append((module, name, kept))
    module._parameters[name] = nn.Parameter(value.detach().to(HALF), requires_grad=False)
