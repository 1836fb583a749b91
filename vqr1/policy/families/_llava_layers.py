"""Faster layers of the text models under LLaVA's families: the library's classes, other passes.

Not here: the mathematics (`vqr1.policy.fast_layers`) and which models get them.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers.models.llama.modeling_llama import LlamaMLP, LlamaRMSNorm
from transformers.models.qwen2.modeling_qwen2 import Qwen2MLP, Qwen2RMSNorm

from vqr1.policy.fast_layers import rms_norm, swiglu


def _norm(module: Any, hidden: Tensor, plain: Any) -> Tensor:
    """[..., n] -> [..., n]; `plain` is the library's pass, for all that is not float32."""
    if hidden.dtype != torch.float32 or module.weight.dtype != torch.float32:
        rows: Tensor = plain(hidden)
        return rows
    return rms_norm(hidden, module.weight, module.variance_epsilon)


def _feed_forward(module: Any, hidden: Tensor) -> Tensor:
    """[..., H] -> [..., H]."""
    out: Tensor = module.down_proj(swiglu(module.gate_proj(hidden), module.up_proj(hidden)))
    return out


class FastQwen2Norm(Qwen2RMSNorm):
    """Qwen2's norm; float32 inputs go through `rms_norm`."""

    def forward(self, hidden_states: Tensor) -> Tensor:
        """[..., n] -> [..., n]."""
        return _norm(self, hidden_states, super().forward)


class FastLlamaNorm(LlamaRMSNorm):
    """Llama's norm; float32 inputs go through `rms_norm`."""

    def forward(self, hidden_states: Tensor) -> Tensor:
        """[..., n] -> [..., n]."""
        return _norm(self, hidden_states, super().forward)


class FastQwen2Mlp(Qwen2MLP):
    """Qwen2's feed-forward layer through `swiglu`."""

    def forward(self, x: Tensor) -> Tensor:
        """[..., H] -> [..., H]."""
        return _feed_forward(self, x)


class FastLlamaMlp(LlamaMLP):
    """Llama's feed-forward layer through `swiglu`."""

    def forward(self, x: Tensor) -> Tensor:
        """[..., H] -> [..., H]."""
        return _feed_forward(self, x)


FAST_LAYERS: dict[type[nn.Module], type[nn.Module]] = {
    Qwen2RMSNorm: FastQwen2Norm,
    LlamaRMSNorm: FastLlamaNorm,
    Qwen2MLP: FastQwen2Mlp,
    LlamaMLP: FastLlamaMlp,
}
