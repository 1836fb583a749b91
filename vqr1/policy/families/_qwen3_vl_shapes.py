"""Shapes of the released Qwen3-VL models (dense), and of a small one for CPUs.

Not here: weights. The numbers are those of the checkpoints' `config.json`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from transformers import Qwen3VLConfig

_VISION_SMALL = {
    "depth": 24, "hidden_size": 1024, "intermediate_size": 4096, "num_heads": 16,
    "deepstack_visual_indexes": [5, 11, 17],
}  # fmt: skip
_VISION_LARGE = {
    "depth": 27, "hidden_size": 1152, "intermediate_size": 4304, "num_heads": 16,
    "deepstack_visual_indexes": [8, 16, 24],
}  # fmt: skip
SHAPES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    # The 2B's widths by four and its depths by three and a half.
    "38m": (
        {
            "hidden_size": 512, "intermediate_size": 1536, "num_hidden_layers": 8,
            "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 64,
            "vocab_size": 512, "tie_word_embeddings": True,
        },
        {
            "depth": 7, "hidden_size": 256, "intermediate_size": 1024, "num_heads": 4,
            "deepstack_visual_indexes": [1, 3, 5],
        },
    ),
    "2b": (
        {
            "hidden_size": 2048, "intermediate_size": 6144, "num_hidden_layers": 28,
            "num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 128,
            "vocab_size": 151936, "tie_word_embeddings": True,
        },
        _VISION_SMALL,
    ),
    "4b": (
        {
            "hidden_size": 2560, "intermediate_size": 9728, "num_hidden_layers": 36,
            "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128,
            "vocab_size": 151936, "tie_word_embeddings": True,
        },
        _VISION_SMALL,
    ),
    "8b": (
        {
            "hidden_size": 4096, "intermediate_size": 12288, "num_hidden_layers": 36,
            "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128,
            "vocab_size": 151936, "tie_word_embeddings": False,
        },
        _VISION_LARGE,
    ),
}  # fmt: skip
"""Text and vision configurations: a small model for CPUs and the shapes of the released ones."""


def shape_config(shape: str, number: Callable[[str], int] = lambda token: 0) -> Qwen3VLConfig:
    """The configuration of a model of one of `SHAPES`.

    Args:
        shape: name in `SHAPES`.
        number: id of a special token; the sizes of weights do not depend on it.
    """
    text, vision = SHAPES[shape]
    half = text["head_dim"] // 2
    spatial = half * 5 // 16
    return Qwen3VLConfig(
        text_config={
            **text,
            "max_position_embeddings": 262144,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 5e6,
                "mrope_interleaved": True,
                "mrope_section": [half - 2 * spatial, spatial, spatial],
            },
            "bos_token_id": number("<|endoftext|>"),
            "eos_token_id": number("<|im_end|>"),
        },
        vision_config={**vision, "out_hidden_size": text["hidden_size"]},
        image_token_id=number("<|image_pad|>"),
        video_token_id=number("<|video_pad|>"),
        vision_start_token_id=number("<|vision_start|>"),
        vision_end_token_id=number("<|vision_end|>"),
        tie_word_embeddings=text["tie_word_embeddings"],
    )
