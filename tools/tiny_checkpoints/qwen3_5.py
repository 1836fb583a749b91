"""A tiny Qwen3.5: gated DeltaNet in three of four layers, partial rotary positions, a gate."""

from __future__ import annotations

from transformers import (
    AddedToken,
    Qwen2VLImageProcessor,
    Qwen3_5Config,
    Qwen3_5ForConditionalGeneration,
    Qwen3VLProcessor,
    Qwen3VLVideoProcessor,
)

from tools.tiny_checkpoints._folder import Checkpoint
from tools.tiny_checkpoints._qwen_tokenizer import qwen_tokenizer
from tools.tiny_checkpoints._qwen_vl import chat_template, generation, special_numbers

HIDDEN, LAYERS = 48, 4
_NORMALISATION = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "patch_size": 16}

_REASONING = (
    "{%- if add_generation_prompt -%}"
    "{%- if enable_thinking is defined and enable_thinking -%}{{- '<think>\\n' -}}"
    "{%- else -%}{{- '<think>\\n\\n</think>\\n\\n' -}}{%- endif -%}"
    "{%- endif -%}"
)
"""The block of reasoning: open where it is asked for, as in the small released checkpoints."""


def checkpoint() -> Checkpoint:
    """Model and processor; see `Checkpoint`."""
    tokenizer = qwen_tokenizer()
    tokenizer.add_tokens(
        [AddedToken(f"<{mark}think>", special=False, normalized=False) for mark in ("", "/")]
    )
    number = tokenizer.convert_tokens_to_ids
    config = Qwen3_5Config(
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": HIDDEN,
            "intermediate_size": 96,
            "num_hidden_layers": LAYERS,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 16,
            # Value heads that share keys, as in the 4B; values of another size than keys.
            "linear_num_key_heads": 2,
            "linear_num_value_heads": 4,
            "linear_key_head_dim": 8,
            "linear_value_head_dim": 12,
            "max_position_embeddings": 32768,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 1e7,
                "partial_rotary_factor": 0.5,
                "mrope_interleaved": True,
                "mrope_section": [2, 1, 1],
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
        },
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
        chat_template=chat_template(system=False) + _REASONING,
    )
    # Decays from a token to some hundreds: a state that forgets at once would hide errors, and what
    # little it gives would be rounded coarsely by the norm that follows.
    decays = {f"model.language_model.layers.{n}.linear_attn.A_log": 1.5 for n in range(LAYERS)}
    one_added = ("layernorm.weight", "q_norm.weight", "k_norm.weight", "model.norm.weight")
    return Checkpoint(
        Qwen3_5ForConditionalGeneration(config),
        processor,
        generation(tokenizer),
        std=decays,
        means={"A_log": -2.0, **dict.fromkeys(one_added, 0.0)},
    )
