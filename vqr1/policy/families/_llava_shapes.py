"""Shapes of the released FastVLM and LLaVA-1.5 models, and of small ones for CPUs.

Not here: weights. The numbers are those of the checkpoints' `config.json`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from transformers import FastVlmConfig, LlavaConfig

Number = Callable[[str], int]

_FAST_VLM_TEXT: dict[str, dict[str, Any]] = {
    "40m": {
        "hidden_size": 448, "intermediate_size": 2432, "num_hidden_layers": 8,
        "num_attention_heads": 14, "num_key_value_heads": 2, "vocab_size": 512,
        "tie_word_embeddings": True,
    },
    "0.5b": {
        "hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24,
        "num_attention_heads": 14, "num_key_value_heads": 2, "vocab_size": 152000,
        "tie_word_embeddings": True,
    },
    "1.5b": {
        "hidden_size": 1536, "intermediate_size": 8960, "num_hidden_layers": 28,
        "num_attention_heads": 12, "num_key_value_heads": 2, "vocab_size": 152000,
        "tie_word_embeddings": True,
    },
    "7b": {
        "hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28,
        "num_attention_heads": 28, "num_key_value_heads": 4, "vocab_size": 152128,
        "tie_word_embeddings": False,
    },
}  # fmt: skip

_TOWER = {"architecture": "fastvit_mci3", "model_args": {"inference_mode": True}}
_SMALL_TOWER = {
    "architecture": "fastvit_mci3",
    "model_args": {"inference_mode": True, "embed_dims": (24, 48, 96, 192, 384)},
}
"""The released tower with a quarter of its channels: the last map has twice its last width."""


_LLAVA: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "36m": (
        {
            "hidden_size": 512, "intermediate_size": 1376, "num_hidden_layers": 8,
            "num_attention_heads": 8, "num_key_value_heads": 8, "vocab_size": 512,
        },
        {
            "hidden_size": 320, "intermediate_size": 1280, "num_hidden_layers": 8,
            "num_attention_heads": 5,
        },
    ),
    "7b": (
        {
            "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32,
            "num_attention_heads": 32, "num_key_value_heads": 32, "vocab_size": 32064,
        },
        {
            "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24,
            "num_attention_heads": 16,
        },
    ),
}  # fmt: skip


def fast_vlm_config(shape: str, number: Number) -> FastVlmConfig:
    """The configuration of a FastVLM.

    Args:
        shape: a name in `fast_vlm.FAMILY.shapes`.
        number: id of a special token; the sizes of weights do not depend on it.
    """
    text, small = _FAST_VLM_TEXT[shape], shape == "40m"
    tower = _SMALL_TOWER if small else _TOWER
    return FastVlmConfig(
        text_config={
            **text,
            "model_type": "qwen2",
            "max_position_embeddings": 32768,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
            "bos_token_id": number("<|endoftext|>"),
            "eos_token_id": number("<|im_end|>"),
            "pad_token_id": number("<|endoftext|>"),
        },
        vision_config={
            **tower, "model_type": "timm_wrapper", "hidden_size": 768 if small else 3072,
            "do_pooling": True,
        },
        image_token_index=number("<image>"),
        image_seq_length=256,
        tie_word_embeddings=text["tie_word_embeddings"],
    )  # fmt: skip


def llava_config(shape: str, number: Number) -> LlavaConfig:
    """The configuration of a LLaVA-1.5.

    Args:
        shape: a name in `llava.FAMILY.shapes`.
        number: id of a special token; the sizes of weights do not depend on it.
    """
    text, vision = _LLAVA[shape]
    return LlavaConfig(
        text_config={
            **text, "model_type": "llama", "max_position_embeddings": 4096, "rms_norm_eps": 1e-5,
            "tie_word_embeddings": False,
        },
        vision_config={
            **vision, "model_type": "clip_vision_model", "image_size": 336, "patch_size": 14,
            "projection_dim": 768, "vocab_size": 32000,
        },
        image_token_index=number("<image>"),
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
        tie_word_embeddings=False,
    )  # fmt: skip
