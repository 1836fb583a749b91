"""Shapes of the released Qwen3.5 models (dense), and of a small one for CPUs.

Not here: weights. The numbers are those of the checkpoints' `config.json`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from transformers import Qwen3_5Config

_VISION_BASE = {"depth": 12, "hidden_size": 768, "intermediate_size": 3072, "num_heads": 12}
_VISION_LARGE = {"depth": 24, "hidden_size": 1024, "intermediate_size": 4096, "num_heads": 16}
_VISION_SO400M = {"depth": 27, "hidden_size": 1152, "intermediate_size": 4304, "num_heads": 16}
_HEADS = {"head_dim": 256, "linear_key_head_dim": 128, "linear_value_head_dim": 128}
SHAPES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    # The 4B's widths by five and less, its depth by four: two blocks of attention of eight.
    "40m": (
        {
            "hidden_size": 512, "intermediate_size": 1536, "num_hidden_layers": 8,
            "num_attention_heads": 8, "num_key_value_heads": 2, "head_dim": 64,
            "linear_num_key_heads": 8, "linear_num_value_heads": 16,
            "linear_key_head_dim": 64, "linear_value_head_dim": 64,
            "vocab_size": 512, "tie_word_embeddings": True,
        },
        {"depth": 7, "hidden_size": 256, "intermediate_size": 1024, "num_heads": 4},
    ),
    "0.8b": (
        {
            "hidden_size": 1024, "intermediate_size": 3584, "num_hidden_layers": 24,
            "num_attention_heads": 8, "num_key_value_heads": 2, **_HEADS,
            "linear_num_key_heads": 16, "linear_num_value_heads": 16,
            "vocab_size": 248320, "tie_word_embeddings": True,
        },
        _VISION_BASE,
    ),
    "2b": (
        {
            "hidden_size": 2048, "intermediate_size": 6144, "num_hidden_layers": 24,
            "num_attention_heads": 8, "num_key_value_heads": 2, **_HEADS,
            "linear_num_key_heads": 16, "linear_num_value_heads": 16,
            "vocab_size": 248320, "tie_word_embeddings": True,
        },
        _VISION_LARGE,
    ),
    "4b": (
        {
            "hidden_size": 2560, "intermediate_size": 9216, "num_hidden_layers": 32,
            "num_attention_heads": 16, "num_key_value_heads": 4, **_HEADS,
            "linear_num_key_heads": 16, "linear_num_value_heads": 32,
            "vocab_size": 248320, "tie_word_embeddings": True,
        },
        _VISION_LARGE,
    ),
    "9b": (
        {
            "hidden_size": 4096, "intermediate_size": 12288, "num_hidden_layers": 32,
            "num_attention_heads": 16, "num_key_value_heads": 4, **_HEADS,
            "linear_num_key_heads": 16, "linear_num_value_heads": 32,
            "vocab_size": 248320, "tie_word_embeddings": False,
        },
        _VISION_SO400M,
    ),
}  # fmt: skip
"""Text and vision configurations: a small model for CPUs and the shapes of the released ones."""


def shape_config(shape: str, number: Callable[[str], int] = lambda token: 0) -> Qwen3_5Config:
    """The configuration of a model of one of `SHAPES`.

    Args:
        shape: name in `SHAPES`.
        number: id of a special token; the sizes of weights do not depend on it.
    """
    text, vision = SHAPES[shape]
    # A quarter of each head is rotated, in pairs, which the three axes share.
    pairs = text["head_dim"] // 8
    last = pairs * 10 // 32
    first = (pairs - last + 1) // 2
    return Qwen3_5Config(
        text_config={
            **text,
            "max_position_embeddings": 262144,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 1e7,
                "partial_rotary_factor": 0.25,
                "mrope_interleaved": True,
                "mrope_section": [first, pairs - first - last, last],
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
