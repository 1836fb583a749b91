"""Faster layers of Qwen2.5-VL: the library's classes with other forward passes.

Not here: the mathematics (`vqr1.policy.fast_layers`) and which models get them.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers.models.qwen2_5_vl import modeling_qwen2_5_vl as qwen

from vqr1.policy.cpu_linear import fast_product
from vqr1.policy.fast_layers import rms_norm, swiglu, window_attention


class FastRmsNorm(qwen.Qwen2_5_VLRMSNorm):
    """The library's norm; float32 inputs go through `rms_norm`."""

    def forward(self, hidden_states: Tensor) -> Tensor:
        """[..., n] -> [..., n]."""
        if hidden_states.dtype != torch.float32 or self.weight.dtype != torch.float32:
            return super().forward(hidden_states)
        return rms_norm(hidden_states, self.weight, self.variance_epsilon)


def _fast_feed_forward(module: Any, hidden: Tensor) -> Tensor:
    gated = swiglu(module.gate_proj(hidden), module.up_proj(hidden))
    out: Tensor = module.down_proj(gated)
    return out


class FastTextMlp(qwen.Qwen2MLP):
    """The text model's feed-forward layer through `swiglu`."""

    def forward(self, x: Tensor) -> Tensor:
        """[..., H] -> [..., H]."""
        return _fast_feed_forward(self, x)


class FastVisionMlp(qwen.Qwen2_5_VLMLP):
    """The vision tower's feed-forward layer through `swiglu`."""

    def forward(self, hidden_state: Tensor) -> Tensor:
        """[..., H] -> [..., H]."""
        return _fast_feed_forward(self, hidden_state)


class FastPatchEmbed(qwen.Qwen2_5_VisionPatchEmbed):
    """The patches' embedding as a matrix product: the convolution's stride is its kernel's size."""

    def forward(self, hidden_states: Tensor) -> Tensor:
        """[N, channels * frames * patch * patch] -> [N, H]."""
        weight = self.proj.weight.flatten(1)
        rows = hidden_states.view(-1, weight.shape[1]).to(weight.dtype)
        return fast_product(rows, weight)


class FastVisionAttention(qwen.Qwen2_5_VLVisionAttention):
    """The vision tower's attention, with one call for all windows of the same size."""

    def forward(
        self,
        hidden_states: Tensor,
        cu_seqlens: Tensor,
        position_embeddings: tuple[Tensor, Tensor],
        max_seqlen: int | None = None,
        **kwargs: Any,
    ) -> Tensor:
        """[N, H] -> [N, H]; windows are the runs of rows between two of `cu_seqlens`."""
        if self.config._attn_implementation != "sdpa":
            # Kernels for windows of different sizes have no need of it.
            attended: Tensor = super().forward(
                hidden_states, cu_seqlens, position_embeddings, max_seqlen, **kwargs
            )
            return attended
        rows = hidden_states.shape[0]
        q, k, v = self.qkv(hidden_states).view(rows, 3, self.num_heads, -1).unbind(1)
        q, k = qwen.apply_rotary_pos_emb_vision(q, k, *position_embeddings)
        out: Tensor = self.proj(window_attention(q, k, v, cu_seqlens.tolist(), self.scaling))
        return out


FAST_LAYERS: dict[type[nn.Module], type[nn.Module]] = {
    qwen.Qwen2_5_VLRMSNorm: FastRmsNorm,
    qwen.Qwen2MLP: FastTextMlp,
    qwen.Qwen2_5_VLMLP: FastVisionMlp,
    qwen.Qwen2_5_VisionPatchEmbed: FastPatchEmbed,
    qwen.Qwen2_5_VLVisionAttention: FastVisionAttention,
}
