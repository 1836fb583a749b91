"""Shapes of the released SmolVLM models, and of a small one for CPUs.

Not here: weights. The numbers are those of the checkpoints' `config.json`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

_VISION = {
    "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12,
    "num_attention_heads": 12, "image_size": 512, "patch_size": 16,
}  # fmt: skip
SHAPES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "38m": (
        {
            "hidden_size": 384, "intermediate_size": 1024, "num_hidden_layers": 12,
            "num_attention_heads": 6, "num_key_value_heads": 2, "vocab_size": 512,
        },
        {
            "hidden_size": 384, "intermediate_size": 1536, "num_hidden_layers": 9,
            "num_attention_heads": 6, "image_size": 512, "patch_size": 16,
        },
    ),
    "256m": (
        {
            "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30,
            "num_attention_heads": 9, "num_key_value_heads": 3, "vocab_size": 49280,
        },
        _VISION,
    ),
    "500m": (
        {
            "hidden_size": 960, "intermediate_size": 2560, "num_hidden_layers": 32,
            "num_attention_heads": 15, "num_key_value_heads": 5, "vocab_size": 49280,
        },
        _VISION,
    ),
}  # fmt: skip
"""Text and vision configurations: a small model for CPUs and the shapes of the released ones."""


def shape_config(config_class: Any, shape: str, number: Callable[[str], int]) -> Any:
    """The configuration of a model of one of `SHAPES`.

    Args:
        config_class: the family's class of configurations.
        shape: name in `SHAPES`.
        number: id of a special token; the sizes of weights do not depend on it.
    """
    text, vision = SHAPES[shape]
    return config_class(
        text_config={
            "model_type": "llama",
            **text,
            "max_position_embeddings": 8192,
            "rms_norm_eps": 1e-5,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e5},
            "bos_token_id": number("<|im_start|>"),
            "eos_token_id": number("<end_of_utterance>"),
            "pad_token_id": number("<|im_end|>"),
            "tie_word_embeddings": False,
        },
        vision_config=dict(vision),
        image_token_id=number("<image>"),
        scale_factor=4,
        tie_word_embeddings=False,
    )
