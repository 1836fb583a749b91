"""Faster layers of text models of Llama's form: the library's classes with other forward passes.

Not here: the mathematics (`vqr1.policy.fast_layers`) and which models get them.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers.models.llama.modeling_llama import LlamaMLP, LlamaRMSNorm

from vqr1.policy.fast_layers import rms_norm, swiglu


class FastRmsNorm(LlamaRMSNorm):
    """The library's norm; float32 inputs go through `rms_norm`."""

    def forward(self, hidden_states: Tensor) -> Tensor:
        """[..., n] -> [..., n]."""
        if hidden_states.dtype != torch.float32 or self.weight.dtype != torch.float32:
            return super().forward(hidden_states)
        return rms_norm(hidden_states, self.weight, self.variance_epsilon)


class FastMlp(LlamaMLP):
    """The library's gated feed-forward layer through `swiglu`."""

    def forward(self, x: Tensor) -> Tensor:
        """[..., H] -> [..., H]."""
        out: Tensor = self.down_proj(swiglu(self.gate_proj(x), self.up_proj(x)))
        return out


FAST_LAYERS: dict[type[nn.Module], type[nn.Module]] = {
    LlamaRMSNorm: FastRmsNorm,
    LlamaMLP: FastMlp,
}
