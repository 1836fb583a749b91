"""What the tiny checkpoints of the Qwen-VL families share: a chat template, and generation.

Not here: models and processors (a module each).
"""

from __future__ import annotations

from typing import Any

from transformers import Qwen2Tokenizer

_TURN = (
    "{{- '<|im_start|>' + turn['role'] + '\\n' -}}"
    "{%- if turn['content'] is string -%}{{- turn['content'] -}}"
    "{%- else -%}"
    "{%- for part in turn['content'] -%}"
    "{%- if part['type'] == 'image' or 'image' in part or 'image_url' in part -%}"
    "{%- set images.seen = images.seen + 1 -%}"
    "{%- if add_vision_id -%}{{- 'Picture {}: '.format(images.seen) -}}{%- endif -%}"
    "{{- '<|vision_start|><|image_pad|><|vision_end|>' -}}"
    "{%- elif 'text' in part -%}{{- part['text'] -}}{%- endif -%}"
    "{%- endfor -%}"
    "{%- endif -%}"
    "{{- '<|im_end|>\\n' -}}"
)


def chat_template(*, system: bool) -> str:
    """Renders images and texts like the released templates, without tools and videos.

    Args:
        system: begins with a system turn where the chat has none (Qwen2-VL and Qwen2.5-VL).
    """
    default = (
        "{%- if loop.first and turn['role'] != 'system' -%}"
        "{{- '<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n' -}}"
        "{%- endif -%}"
    )
    return (
        "{%- set images = namespace(seen=0) -%}"
        "{%- for turn in messages -%}" + (default if system else "") + _TURN + "{%- endfor -%}"
        "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}"
    )


def special_numbers(tokenizer: Qwen2Tokenizer) -> dict[str, int]:
    """The special tokens that `config.json` numbers."""
    number = tokenizer.convert_tokens_to_ids
    return {
        "image_token_id": number("<|image_pad|>"),
        "video_token_id": number("<|video_pad|>"),
        "vision_start_token_id": number("<|vision_start|>"),
        "vision_end_token_id": number("<|vision_end|>"),
    }


def generation(tokenizer: Qwen2Tokenizer) -> dict[str, Any]:
    """Contents of `generation_config.json`: as released, with sampling."""
    number = tokenizer.convert_tokens_to_ids
    return {
        "bos_token_id": number("<|endoftext|>"),
        "pad_token_id": number("<|endoftext|>"),
        "eos_token_id": [number("<|im_end|>"), number("<|endoftext|>")],
        "do_sample": True,
        "temperature": 0.7,
        "top_k": 20,
        "top_p": 0.8,
    }
