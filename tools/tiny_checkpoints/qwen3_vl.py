"""A tiny Qwen3-VL: DeepStack from two layers of the tower, interleaved mRoPE, q and k norms."""

from __future__ import annotations

from transformers import (
    Qwen2VLImageProcessor,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Qwen3VLProcessor,
    Qwen3VLVideoProcessor,
)

from tools.tiny_checkpoints._folder import Checkpoint
from tools.tiny_checkpoints._qwen_tokenizer import qwen_tokenizer
from tools.tiny_checkpoints._qwen_vl import chat_template, generation, special_numbers

HIDDEN = 48
_NORMALISATION = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "patch_size": 16}


def checkpoint() -> Checkpoint:
    """Model and processor; see `Checkpoint`."""
    tokenizer = qwen_tokenizer()
    number = tokenizer.convert_tokens_to_ids
    config = Qwen3VLConfig(
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": HIDDEN,
            "intermediate_size": 96,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            # Heads that are wider than their share of the hidden size, as in the 4B.
            "head_dim": 16,
            "max_position_embeddings": 32768,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 5e6,
                "mrope_interleaved": True,
                "mrope_section": [4, 2, 2],
            },
            "bos_token_id": number("<|endoftext|>"),
            "eos_token_id": number("<|im_end|>"),
            "tie_word_embeddings": True,
        },
        vision_config={
            "depth": 3,
            "hidden_size": 24,
            "intermediate_size": 48,
            "num_heads": 2,
            "out_hidden_size": HIDDEN,
            "num_position_embeddings": 64,
            "deepstack_visual_indexes": [0, 1],
        },
        # As in the 2B and the 4B.
        tie_word_embeddings=True,
        **special_numbers(tokenizer),
    )
    processor = Qwen3VLProcessor(
        Qwen2VLImageProcessor(
            size={"shortest_edge": 256 * 256, "longest_edge": 4096 * 4096}, **_NORMALISATION
        ),
        tokenizer,
        Qwen3VLVideoProcessor(
            size={"shortest_edge": 4096, "longest_edge": 25165824}, **_NORMALISATION
        ),
        chat_template=chat_template(system=False),
    )
    return Checkpoint(Qwen3VLForConditionalGeneration(config), processor, generation(tokenizer))
