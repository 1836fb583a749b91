"""Shapes of the released InternVL 3.5 models (-HF), and of a small one for CPUs.

Not here: weights. The numbers are those of the checkpoints' `config.json`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from transformers import InternVLConfig

_VISION = {
    "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24,
    "num_attention_heads": 16, "attention_bias": True, "image_size": 448, "patch_size": 14,
}  # fmt: skip
SHAPES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    # The 1B's widths by two and its depths by three and a half.
    "37m": (
        {
            "hidden_size": 512, "intermediate_size": 1536, "num_hidden_layers": 8,
            "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 64,
            "vocab_size": 512,
        },
        {
            "hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 7,
            "num_attention_heads": 4, "attention_bias": True, "image_size": 448, "patch_size": 14,
        },
    ),
    "1b": (
        {
            "hidden_size": 1024, "intermediate_size": 3072, "num_hidden_layers": 28,
            "num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 128,
            "vocab_size": 151936,
        },
        _VISION,
    ),
    "2b": (
        {
            "hidden_size": 2048, "intermediate_size": 6144, "num_hidden_layers": 28,
            "num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 128,
            "vocab_size": 151936,
        },
        _VISION,
    ),
    "8b": (
        {
            "hidden_size": 4096, "intermediate_size": 12288, "num_hidden_layers": 36,
            "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128,
            "vocab_size": 151936,
        },
        _VISION,
    ),
}  # fmt: skip
"""Text and vision configurations: a small model for CPUs and the shapes of the released ones."""


def shape_config(shape: str, number: Callable[[str], int] = lambda token: 0) -> InternVLConfig:
    """The configuration of a model of one of `SHAPES`.

    Args:
        shape: name in `SHAPES`.
        number: id of a special token; the sizes of weights do not depend on it.
    """
    text, vision = SHAPES[shape]
    return InternVLConfig(
        text_config={
            "model_type": "qwen3",
            **text,
            "max_position_embeddings": 40960,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
            "bos_token_id": number("<|endoftext|>"),
            "eos_token_id": number("<|im_end|>"),
            "tie_word_embeddings": False,
        },
        vision_config=vision,
        image_token_id=number("<IMG_CONTEXT>"),
        image_seq_length=(vision["image_size"] // vision["patch_size"] // 2) ** 2,
        tie_word_embeddings=False,
    )
