"""A tiny Qwen2.5-VL: window and full attention in the tower, grouped heads, mRoPE."""

from __future__ import annotations

from transformers import (
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2VLImageProcessor,
    Qwen2VLVideoProcessor,
)

from tools.tiny_checkpoints._folder import Checkpoint
from tools.tiny_checkpoints._qwen_tokenizer import qwen_tokenizer
from tools.tiny_checkpoints._qwen_vl import chat_template, generation, special_numbers
from vqr1.policy.families._qwen_images import IMAGE_MEAN, IMAGE_STD

HIDDEN = 48


def checkpoint() -> Checkpoint:
    """Model and processor; see `Checkpoint`."""
    tokenizer = qwen_tokenizer()
    number = tokenizer.convert_tokens_to_ids
    config = Qwen2_5_VLConfig(
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": HIDDEN,
            "intermediate_size": 96,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 32768,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 1e6,
                "mrope_section": [2, 2, 2],
            },
            "bos_token_id": number("<|endoftext|>"),
            "eos_token_id": number("<|im_end|>"),
            "pad_token_id": number("<|endoftext|>"),
        },
        vision_config={
            "depth": 2,
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_heads": 2,
            "out_hidden_size": HIDDEN,
            "window_size": 56,
            "fullatt_block_indexes": [1],
        },
        tie_word_embeddings=False,
        **special_numbers(tokenizer),
    )
    image = {
        "size": {"shortest_edge": 56 * 56, "longest_edge": 28 * 28 * 1280},
        "patch_size": 14,
        "image_mean": list(IMAGE_MEAN),
        "image_std": list(IMAGE_STD),
    }
    processor = Qwen2_5_VLProcessor(
        Qwen2VLImageProcessor(**image),
        tokenizer,
        Qwen2VLVideoProcessor(**image),
        chat_template=chat_template(system=True),
    )
    return Checkpoint(Qwen2_5_VLForConditionalGeneration(config), processor, generation(tokenizer))
