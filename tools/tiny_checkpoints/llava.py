"""A tiny LLaVA: two layers of a CLIP tower without its class token, Llama on top.

Its tokenizer writes `<s>` before every text, as Llama's does, and its template does not.
"""

from __future__ import annotations

from typing import Any

from tokenizers.processors import TemplateProcessing
from transformers import (
    CLIPImageProcessor,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

from tools.tiny_checkpoints._folder import Checkpoint
from tools.tiny_checkpoints._qwen_tokenizer import qwen_tokenizer

SIDE, PATCH = 42, 14
"""Side of every image, and of its patches."""

TEMPLATE = (
    "{% for message in messages %}"
    "{{ message['role'].upper() + ': ' }}"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for item in message['content'] %}"
    "{{ '<image>\\n' if item['type'] == 'image' else item['text'] }}{% endfor %}{% endif %}"
    "{{ ' ' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)


BEGIN, END, PAD = "<s>", "</s>", "<pad>"


def llava_tokenizer() -> PreTrainedTokenizerFast:
    """Qwen's cut down vocabulary with the special tokens of Llama, of which it writes the first."""
    core: Any = qwen_tokenizer(
        (BEGIN, END, PAD, "<image>"), end_of_turn=END, padding=PAD
    ).backend_tokenizer
    core.post_processor = TemplateProcessing(
        single=f"{BEGIN} $A", special_tokens=[(BEGIN, core.token_to_id(BEGIN))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token=BEGIN,
        eos_token=END,
        pad_token=PAD,
        unk_token=PAD,
        additional_special_tokens=["<image>"],
        clean_up_tokenization_spaces=False,
        model_max_length=32768,
    )


def checkpoint() -> Checkpoint:
    """Model and processor; see `Checkpoint`."""
    tokenizer = llava_tokenizer()
    number = tokenizer.convert_tokens_to_ids
    config = LlavaConfig(
        text_config={
            "model_type": "llama",
            "vocab_size": len(tokenizer),
            "hidden_size": 48,
            "intermediate_size": 96,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 32768,
            "bos_token_id": number(BEGIN),
            "eos_token_id": number(END),
            "pad_token_id": number(PAD),
            "tie_word_embeddings": False,
        },
        vision_config={
            "model_type": "clip_vision_model",
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 3,
            "num_attention_heads": 2,
            "image_size": SIDE,
            "patch_size": PATCH,
            "projection_dim": 32,
        },
        image_token_index=number("<image>"),
        image_seq_length=(SIDE // PATCH) ** 2,
        vision_feature_layer=[-3, -2],
        vision_feature_select_strategy="default",
        tie_word_embeddings=False,
    )
    processor = LlavaProcessor(
        CLIPImageProcessor(size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE}),
        tokenizer,
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=TEMPLATE,
    )
    model = LlavaForConditionalGeneration(config)
    generation = {
        "bos_token_id": number(BEGIN), "eos_token_id": number(END), "pad_token_id": number(PAD),
    }  # fmt: skip
    # The library leaves a module out that released checkpoints have, and has it back in what it
    # saves of a model that was loaded with it.
    released = {"vision_tower.": "vision_tower.vision_model."}
    return Checkpoint(model, processor, generation, std={"lm_head": 0.3}, released=released)
