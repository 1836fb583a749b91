"""Shapes of the released Qwen2.5-VL and Qwen2-VL models, and of small ones for CPUs.

Not here: weights. The numbers are those of the checkpoints' `config.json`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from transformers import Qwen2_5_VLConfig, Qwen2VLConfig

_TEXT_3B = {
    "hidden_size": 2048, "intermediate_size": 11008, "num_hidden_layers": 36,
    "num_attention_heads": 16, "num_key_value_heads": 2, "vocab_size": 151936,
    "tie_word_embeddings": True,
}  # fmt: skip
_TEXT_7B = {
    "hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28,
    "num_attention_heads": 28, "num_key_value_heads": 4, "vocab_size": 152064,
    "tie_word_embeddings": False,
}  # fmt: skip
_VISION = {
    "depth": 32, "hidden_size": 1280, "intermediate_size": 3420, "num_heads": 16,
    "window_size": 112, "fullatt_block_indexes": [7, 15, 23, 31],
}  # fmt: skip
SHAPES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "39m": (
        {
            "hidden_size": 512, "intermediate_size": 1408, "num_hidden_layers": 8,
            "num_attention_heads": 8, "num_key_value_heads": 2, "vocab_size": 512,
            "tie_word_embeddings": False,
        },
        {
            "depth": 8, "hidden_size": 320, "intermediate_size": 1280, "num_heads": 4,
            "window_size": 112, "fullatt_block_indexes": [3, 7],
        },
    ),
    "3b": (_TEXT_3B, _VISION),
    "7b": (_TEXT_7B, _VISION),
}  # fmt: skip
"""Text and vision configurations: a small model for CPUs and the shapes of the released ones."""

_QWEN2_VISION = {"depth": 32, "embed_dim": 1280, "num_heads": 16, "mlp_ratio": 4}
QWEN2_SHAPES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "36m": (
        SHAPES["39m"][0], {"depth": 8, "embed_dim": 320, "num_heads": 4, "mlp_ratio": 4}
    ),
    "2b": (
        {
            "hidden_size": 1536, "intermediate_size": 8960, "num_hidden_layers": 28,
            "num_attention_heads": 12, "num_key_value_heads": 2, "vocab_size": 151936,
            "tie_word_embeddings": True,
        },
        _QWEN2_VISION,
    ),
    "7b": (_TEXT_7B, _QWEN2_VISION),
}  # fmt: skip
"""The same of Qwen2-VL; its released sizes have the same tower."""


def shape_config(shape: str, number: Callable[[str], int] = lambda token: 0) -> Qwen2_5_VLConfig:
    """The configuration of a model of one of `SHAPES`.

    Args:
        shape: name in `SHAPES`.
        number: id of a special token; the sizes of weights do not depend on it.
    """
    text, vision = SHAPES[shape]
    return Qwen2_5_VLConfig(
        text_config=_text_config(text, number),
        vision_config={**vision, "out_hidden_size": text["hidden_size"]},
        **_numbers(number),
        tie_word_embeddings=text["tie_word_embeddings"],
    )


def qwen2_vl_config(shape: str, number: Callable[[str], int] = lambda token: 0) -> Qwen2VLConfig:
    """The configuration of a Qwen2-VL of one of `QWEN2_SHAPES`; see `shape_config`."""
    text, vision = QWEN2_SHAPES[shape]
    return Qwen2VLConfig(
        text_config=_text_config(text, number),
        vision_config={**vision, "hidden_size": text["hidden_size"]},
        **_numbers(number),
        tie_word_embeddings=text["tie_word_embeddings"],
    )


def _text_config(text: Mapping[str, Any], number: Callable[[str], int]) -> dict[str, Any]:
    head = text["hidden_size"] // text["num_attention_heads"] // 2
    return {
        **text,
        "max_position_embeddings": 32768,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 1e6,
            "mrope_section": [head - 2 * (head * 3 // 8), head * 3 // 8, head * 3 // 8],
        },
        "bos_token_id": number("<|endoftext|>"),
        "eos_token_id": number("<|im_end|>"),
        "pad_token_id": number("<|endoftext|>"),
    }


def _numbers(number: Callable[[str], int]) -> dict[str, int]:
    """Special tokens of images and videos."""
    return {
        "image_token_id": number("<|image_pad|>"),
        "video_token_id": number("<|video_pad|>"),
        "vision_start_token_id": number("<|vision_start|>"),
        "vision_end_token_id": number("<|vision_end|>"),
    }
