"""A tiny InternVL 3.5: tiles of 56 pixels, a pixel shuffle, a Qwen3 text model."""

from __future__ import annotations

from transformers import (
    GotOcr2ImageProcessor,
    InternVLConfig,
    InternVLForConditionalGeneration,
    InternVLProcessor,
    InternVLVideoProcessor,
)

from tools.tiny_checkpoints._folder import Checkpoint
from tools.tiny_checkpoints._qwen_tokenizer import QWEN2_SPECIAL, qwen_tokenizer
from tools.tiny_checkpoints._qwen_vl import generation

TILE, PATCH = 56, 14
IMAGE, START, END, VIDEO = "<IMG_CONTEXT>", "<img>", "</img>", "<video>"
_SIZES = {
    "size": {"height": TILE, "width": TILE},
    "image_mean": [0.485, 0.456, 0.406],
    "image_std": [0.229, 0.224, 0.225],
}
CHAT_TEMPLATE = (
    "{%- for turn in messages -%}{{- '<|im_start|>' + turn['role'] + '\\n' -}}"
    "{%- if turn['content'] is string -%}{{- turn['content'] -}}{%- else -%}"
    "{%- for part in turn['content'] -%}"
    "{%- if part['type'] == 'image' -%}{{- '<IMG_CONTEXT>\\n' -}}"
    "{%- elif part['type'] == 'text' -%}{{- part['text'] -}}{%- endif -%}"
    "{%- endfor -%}{%- endif -%}{{- '<|im_end|>\\n' -}}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}"
)
"""The form of the released checkpoints' template."""


def checkpoint() -> Checkpoint:
    """Model and processor; see `Checkpoint`."""
    tokenizer = qwen_tokenizer((*QWEN2_SPECIAL[:3], IMAGE, START, END, VIDEO))
    number = tokenizer.convert_tokens_to_ids
    names = {
        "start_image_token": START, "end_image_token": END, "context_image_token": IMAGE,
        "video_token": VIDEO,
    }  # fmt: skip
    for name, token in names.items():
        tokenizer._set_model_specific_special_tokens({name: token})
    config = InternVLConfig(
        text_config={
            "model_type": "qwen3",
            "vocab_size": len(tokenizer),
            "hidden_size": 48,
            "intermediate_size": 96,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 16,
            "max_position_embeddings": 32768,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
            "bos_token_id": number("<|endoftext|>"),
            "eos_token_id": number("<|im_end|>"),
            "tie_word_embeddings": False,
        },
        vision_config={
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "attention_bias": True,
            "image_size": TILE,
            "patch_size": PATCH,
        },
        image_token_id=number(IMAGE),
        image_seq_length=(TILE // PATCH // 2) ** 2,
        tie_word_embeddings=False,
    )
    processor = InternVLProcessor(
        GotOcr2ImageProcessor(**_SIZES),
        tokenizer,
        InternVLVideoProcessor(**_SIZES),
        image_seq_length=(TILE // PATCH // 2) ** 2,
        chat_template=CHAT_TEMPLATE,
    )
    return Checkpoint(InternVLForConditionalGeneration(config), processor, generation(tokenizer))
