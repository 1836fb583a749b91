"""The policy's weights as a serving engine takes them: one by one, adapters added, nothing changed.

Names are those that vLLM maps to its own (`Family.served_name`).

Not here: sending them (`vqr1.rollout`), files (`export.py`).
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from vqr1.policy.unwrap import family_of, unwrap

_BASE, _LORA = ".base_layer.", ".lora_"


@torch.no_grad()
def served_weights(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Name and value of every weight; the value of an adapted one is weight + B A alpha / rank.

    Adapters are added to a copy: taking them out of the weights again would leave rounding.

    Args:
        model: the policy, bare or with active adapters; its weights in full in this process.
    """
    core, family = unwrap(model), family_of(model)
    for name, parameter in core.named_parameters():
        if _LORA in name:
            continue
        if _BASE not in name:
            yield family.served_name(name), parameter.detach()
            continue
        place, _, kind = name.partition(_BASE)
        value = parameter.detach()
        layer = core.get_submodule(place)
        if kind == "weight":
            for adapter in layer.active_adapters:
                value = value + layer.get_delta_weight(adapter).to(value.dtype)
        yield family.served_name(f"{place}.{kind}"), value
