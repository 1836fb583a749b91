"""Faster layers of Qwen2.5-VL: the library's classes with other forward passes.

Not here: those passes (`_qwen_layers.py`, `_lean_passes.py`) and which models get them.
"""

from __future__ import annotations

from torch import nn
from transformers.models.qwen2_5_vl import modeling_qwen2_5_vl as qwen

from vqr1.policy.families._lean_passes import GatedFeedForward, LeanRmsNorm
from vqr1.policy.families._qwen_layers import PatchProduct, WindowedAttention


class FastRmsNorm(LeanRmsNorm, qwen.Qwen2_5_VLRMSNorm):
    """Of tower and text model."""


class FastTextMlp(GatedFeedForward, qwen.Qwen2MLP):
    """Of the text model."""


class FastVisionMlp(GatedFeedForward, qwen.Qwen2_5_VLMLP):
    """Of the tower."""


class FastPatchEmbed(PatchProduct, qwen.Qwen2_5_VisionPatchEmbed):
    """Of the tower."""


class FastVisionAttention(WindowedAttention, qwen.Qwen2_5_VLVisionAttention):
    """Of the tower: in windows, and over whole images in some blocks."""


FAST_LAYERS: dict[type[nn.Module], type[nn.Module]] = {
    qwen.Qwen2_5_VLRMSNorm: FastRmsNorm,
    qwen.Qwen2MLP: FastTextMlp,
    qwen.Qwen2_5_VLMLP: FastVisionMlp,
    qwen.Qwen2_5_VisionPatchEmbed: FastPatchEmbed,
    qwen.Qwen2_5_VLVisionAttention: FastVisionAttention,
}
