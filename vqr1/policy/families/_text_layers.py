"""Faster layers of text models that several families have: Llama's, Qwen2's and Qwen3's.

Not here: their passes (`_lean_passes.py`), and text models that are part of a family
(`_qwen2_5_vl_layers.py`, `_qwen3_vl_layers.py`).
"""

from __future__ import annotations

from torch import nn
from transformers.models.llama.modeling_llama import LlamaMLP, LlamaRMSNorm
from transformers.models.qwen2.modeling_qwen2 import Qwen2MLP, Qwen2RMSNorm
from transformers.models.qwen3.modeling_qwen3 import Qwen3MLP, Qwen3RMSNorm

from vqr1.policy.families._lean_passes import GatedFeedForward, LeanRmsNorm


class FastLlamaRmsNorm(LeanRmsNorm, LlamaRMSNorm):
    """Llama's."""


class FastLlamaMlp(GatedFeedForward, LlamaMLP):
    """Llama's."""


class FastQwen2RmsNorm(LeanRmsNorm, Qwen2RMSNorm):
    """Qwen2's."""


class FastQwen2Mlp(GatedFeedForward, Qwen2MLP):
    """Qwen2's."""


class FastQwen3RmsNorm(LeanRmsNorm, Qwen3RMSNorm):
    """Qwen3's, of queries and keys too."""


class FastQwen3Mlp(GatedFeedForward, Qwen3MLP):
    """Qwen3's."""


FAST_LAYERS: dict[type[nn.Module], type[nn.Module]] = {
    LlamaRMSNorm: FastLlamaRmsNorm,
    LlamaMLP: FastLlamaMlp,
    Qwen2RMSNorm: FastQwen2RmsNorm,
    Qwen2MLP: FastQwen2Mlp,
    Qwen3RMSNorm: FastQwen3RmsNorm,
    Qwen3MLP: FastQwen3Mlp,
}
