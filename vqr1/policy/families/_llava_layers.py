"""Faster layers of the text models under LLaVA's families: Qwen2's, beside Llama's.

Not here: those passes (`_qwen_layers.py`, `_llama_layers.py`) and which models get them.
"""

from __future__ import annotations

from torch import nn
from transformers.models.qwen2.modeling_qwen2 import Qwen2MLP, Qwen2RMSNorm

from vqr1.policy.families._llama_layers import FAST_LAYERS as LLAMA_LAYERS
from vqr1.policy.families._qwen_layers import GatedFeedForward, LeanRmsNorm


class FastRmsNorm(LeanRmsNorm, Qwen2RMSNorm):
    """Of the text model."""


class FastMlp(GatedFeedForward, Qwen2MLP):
    """Of the text model."""


FAST_LAYERS: dict[type[nn.Module], type[nn.Module]] = {
    **LLAMA_LAYERS,
    Qwen2RMSNorm: FastRmsNorm,
    Qwen2MLP: FastMlp,
}
