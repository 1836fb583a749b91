"""Faster layers of Qwen2-VL: the library's classes with other forward passes.

Not here: those passes (`_qwen_layers.py`, `_lean_passes.py`) and which models get them.
"""

from __future__ import annotations

from torch import nn
from transformers.models.qwen2_vl import modeling_qwen2_vl as qwen2

from vqr1.policy.families._lean_passes import GatedFeedForward, LeanRmsNorm
from vqr1.policy.families._qwen_layers import PatchProduct, WindowedAttention


class FastRmsNorm(LeanRmsNorm, qwen2.Qwen2VLRMSNorm):
    """Of the text model."""


class FastTextMlp(GatedFeedForward, qwen2.Qwen2MLP):
    """Of the text model."""


class FastPatchEmbed(PatchProduct, qwen2.PatchEmbed):
    """Of the tower."""


class FastVisionAttention(WindowedAttention, qwen2.VisionAttention):
    """Of the tower: over whole images."""


FAST_LAYERS: dict[type[nn.Module], type[nn.Module]] = {
    qwen2.Qwen2VLRMSNorm: FastRmsNorm,
    qwen2.Qwen2MLP: FastTextMlp,
    qwen2.PatchEmbed: FastPatchEmbed,
    qwen2.VisionAttention: FastVisionAttention,
}
