"""Faster layers of Qwen3-VL: the library's classes with other forward passes.

Not here: those passes (`_qwen_layers.py`, `_lean_passes.py`) and which models get them. The tower's
norms are layer norms and its feed-forward layers have no gate: PyTorch's own are as lean.
"""

from __future__ import annotations

from torch import nn
from transformers.models.qwen3_vl import modeling_qwen3_vl as qwen

from vqr1.policy.families._lean_passes import GatedFeedForward, LeanRmsNorm
from vqr1.policy.families._qwen_layers import PatchProduct, WindowedAttention


class FastRmsNorm(LeanRmsNorm, qwen.Qwen3VLTextRMSNorm):
    """Of the text model, queries and keys included."""


class FastTextMlp(GatedFeedForward, qwen.Qwen3VLTextMLP):
    """Of the text model."""


class FastPatchEmbed(PatchProduct, qwen.Qwen3VLVisionPatchEmbed):
    """Of the tower."""


class FastVisionAttention(WindowedAttention, qwen.Qwen3VLVisionAttention):
    """Of the tower: over whole images."""


FAST_LAYERS: dict[type[nn.Module], type[nn.Module]] = {
    qwen.Qwen3VLTextRMSNorm: FastRmsNorm,
    qwen.Qwen3VLTextMLP: FastTextMlp,
    qwen.Qwen3VLVisionPatchEmbed: FastPatchEmbed,
    qwen.Qwen3VLVisionAttention: FastVisionAttention,
}
