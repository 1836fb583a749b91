"""Forward passes that the faster layers of the Qwen-VL families' towers share.

They stand before a class of the library (`class Fast(PatchProduct, library.PatchEmbed)`), whose own
pass remains for the cases in which nothing is gained.

Not here: the classes (`_qwen2_5_vl_layers.py`, `_qwen3_vl_layers.py`), text models
(`_lean_passes.py`), and the mathematics (`vqr1.policy.fast_layers`).
"""

from __future__ import annotations

from typing import Any, cast

from torch import Tensor
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import apply_rotary_pos_emb_vision

from vqr1.policy.cpu_linear import fast_product
from vqr1.policy.fast_layers import window_attention


class PatchProduct:
    """The patches' embedding as a matrix product: the convolution's stride is its kernel's size."""

    proj: Any

    def forward(self, hidden_states: Tensor) -> Tensor:
        """[N, channels * frames * patch * patch] -> [N, H]."""
        weight = self.proj.weight.flatten(1)
        rows = hidden_states.view(-1, weight.shape[1]).to(weight.dtype)
        return fast_product(rows, weight, self.proj.bias)


class WindowedAttention:
    """The tower's attention, with one call for all windows or images of the same size."""

    config: Any
    num_heads: int
    scaling: float
    qkv: Any
    proj: Any

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
            attended: Tensor = cast(Any, super()).forward(
                hidden_states, cu_seqlens, position_embeddings, max_seqlen, **kwargs
            )
            return attended
        rows = hidden_states.shape[0]
        q, k, v = self.qkv(hidden_states).view(rows, 3, self.num_heads, -1).unbind(1)
        q, k = apply_rotary_pos_emb_vision(q, k, *position_embeddings)
        out: Tensor = self.proj(window_attention(q, k, v, cu_seqlens, self.scaling))
        return out
