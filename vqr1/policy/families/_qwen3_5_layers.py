"""Layers of Qwen3.5: the library's classes with other forward passes.

`SharedDeltaNet` makes the shared prompt possible: given an attention plan, it hands its rows to it
(`vqr1.policy.linear_attention`), so that responses continue the prompt's state. Without one it is
the library's. The others are faster: the RMS norms' factor is 1 + weight.

Not here: the passes that families share (`_qwen_layers.py`, `_lean_passes.py`), and the recurrence.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers.models.qwen3_5 import modeling_qwen3_5 as qwen
from transformers.utils import is_flash_linear_attention_available

from vqr1.policy.delta_chunks import chunked_delta, uncast
from vqr1.policy.families._lean_passes import GatedFeedForward, LeanRmsNorm
from vqr1.policy.families._qwen_layers import PatchProduct, WindowedAttention
from vqr1.policy.fast_layers import fused_rms_norm, rms_norm
from vqr1.policy.linear_attention import DeltaRows, repeated


def _library(
    rule: Any,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    decay: Tensor,
    beta: Tensor,
    state: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """A rule of the library: fla's kernel where it is installed, PyTorch's operations elsewhere."""
    q, k = repeated(q, k, v)
    with uncast(q):
        found: tuple[Tensor, Tensor] = rule(
            q, k, v, g=decay, beta=beta, initial_state=state,
            output_final_state=True, use_qk_l2norm_in_kernel=True,
        )  # fmt: skip
    return found


_CHUNKS = partial(_library, qwen.torch_chunk_gated_delta_rule)
_ONE_TOKEN = partial(_library, qwen.torch_recurrent_gated_delta_rule)


class SharedDeltaNet(qwen.Qwen3_5GatedDeltaNet):
    """Of the text model; a `LinearLayer`."""

    def forward(
        self,
        hidden_states: Tensor,
        cache_params: Any = None,
        attention_mask: Tensor | None = None,
        plan: Any = None,
        store: Any = None,
        **kwargs: Any,
    ) -> Tensor:
        """[1, L, H] -> [1, L, H] of a packed row; without a plan the library's own pass."""
        if plan is None:
            rows: Tensor = super().forward(hidden_states, cache_params, attention_mask, **kwargs)
            return rows
        mixed, left = plan.recur(self.layer_idx, self.delta_rows(hidden_states[0]))
        if store is not None:
            store.states[self.layer_idx] = left
        return self.output(hidden_states[0], mixed)[None]

    def delta_rows(self, hidden: Tensor) -> DeltaRows:
        """See `LinearLayer`."""
        kernels = hidden.is_cuda and is_flash_linear_attention_available()
        return DeltaRows(
            self.in_proj_qkv(hidden),
            # In float32: exp(A) of float16 may be infinite.
            -self.A_log.float().exp()
            * nn.functional.softplus(self.in_proj_a(hidden).float() + self.dt_bias),
            self.in_proj_b(hidden).sigmoid(),
            self.conv1d.weight[:, 0],
            self.num_k_heads,
            self.head_k_dim,
            chunked_delta if hidden.device.type == "cpu" else _CHUNKS,
            _ONE_TOKEN if kernels else None,
        )

    def output(self, hidden: Tensor, mixed: Tensor) -> Tensor:
        """See `LinearLayer`: the gated norm of each head, and the last projection."""
        gate = self.in_proj_z(hidden).view(-1, self.head_v_dim)
        normed = self.norm(mixed.reshape(-1, self.head_v_dim), gate)
        out: Tensor = self.out_proj(normed.view(len(hidden), -1))
        return out


class FastRmsNorm(LeanRmsNorm, qwen.Qwen3_5RMSNorm):
    """Of the text model, queries and keys included."""

    def _normalised(self, rows: Tensor) -> Tensor:
        # In another type than float32 the sum 1 + weight would be rounded before it is used.
        if rows.dtype != torch.float32 or self.weight.dtype != torch.float32:
            result: Tensor = qwen.Qwen3_5RMSNorm.forward(self, rows)
            return result
        kernel = rms_norm if rows.device.type == "cpu" else fused_rms_norm
        return kernel(rows, 1.0 + self.weight, self.eps)


class FastTextMlp(GatedFeedForward, qwen.Qwen3_5MLP):
    """Of the text model."""


class FastPatchEmbed(PatchProduct, qwen.Qwen3_5VisionPatchEmbed):
    """Of the tower."""


class FastVisionAttention(WindowedAttention, qwen.Qwen3_5VisionAttention):
    """Of the tower: over whole images."""


FAST_LAYERS: dict[type[nn.Module], type[nn.Module]] = {
    qwen.Qwen3_5GatedDeltaNet: SharedDeltaNet,
    qwen.Qwen3_5RMSNorm: FastRmsNorm,
    qwen.Qwen3_5MLP: FastTextMlp,
    qwen.Qwen3_5VisionPatchEmbed: FastPatchEmbed,
    qwen.Qwen3_5VisionAttention: FastVisionAttention,
}
