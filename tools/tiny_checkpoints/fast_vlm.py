"""A tiny FastVLM: pooled stages of a convolutional tower with batch norms, Qwen2 on top.

The tower is the named architecture of `vqr1.policy.towers`, as a tower of several stages needs it.
"""

from __future__ import annotations

import torch
from torch.nn.modules.batchnorm import _BatchNorm
from transformers import CLIPImageProcessor, FastVlmConfig, LlavaProcessor

from tools.tiny_checkpoints._folder import Checkpoint
from tools.tiny_checkpoints._qwen_tokenizer import QWEN2_SPECIAL, qwen_tokenizer
from tools.tiny_checkpoints._qwen_vl import generation
from vqr1.policy.families.fast_vlm import FAMILY

SIDE, GRID = 64, 2
"""Side of every image, and image tokens along it."""

STD = {"model.vision_tower": 0.4, "lm_head": 0.3}
"""Noise looks alike where it is averaged: wide enough that an image makes a difference."""

TEMPLATE = (
    "{% for message in messages %}"
    "{% if loop.first and message['role'] != 'system' %}"
    "{{ '<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n' }}{% endif %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' }}"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for item in message['content'] if item['type'] == 'image' %}{{ '<image>' }}{% endfor %}"
    "{% for item in message['content'] if item['type'] == 'text' %}"
    "{{ '\\n' + item['text'] }}{% endfor %}{% endif %}"
    "{{ '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
"""As the released checkpoints': all images of a message come before its text."""


def checkpoint() -> Checkpoint:
    """Model and processor; see `Checkpoint`."""
    tokenizer = qwen_tokenizer((*QWEN2_SPECIAL, "<image>"))
    number = tokenizer.convert_tokens_to_ids
    model_class = FAMILY.model_class()
    config = FastVlmConfig(
        text_config={
            "model_type": "qwen2",
            "vocab_size": len(tokenizer),
            "hidden_size": 48,
            "intermediate_size": 96,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 32768,
            "bos_token_id": number("<|endoftext|>"),
            "eos_token_id": number("<|im_end|>"),
            "pad_token_id": number("<|endoftext|>"),
            "tie_word_embeddings": False,
        },
        vision_config={
            "model_type": "timm_wrapper",
            "architecture": "tf_efficientnet_lite0_stages",
            "model_args": {"grid": GRID, "stages": [0, 1, 2]},
            "hidden_size": 16 + 24 + 40,
            "do_pooling": False,
        },
        image_token_index=number("<image>"),
        image_seq_length=GRID**2,
        tie_word_embeddings=False,
    )
    model = model_class(config)
    draw_statistics(model.model.vision_tower)
    processor = LlavaProcessor(
        CLIPImageProcessor(
            size={"shortest_edge": SIDE},
            crop_size={"height": SIDE, "width": SIDE},
            image_mean=[0.5, 0.5, 0.5],
            image_std=[0.5, 0.5, 0.5],
        ),
        tokenizer,
        patch_size=SIDE // GRID,
        chat_template=TEMPLATE,
    )
    return Checkpoint(model, processor, generation(tokenizer), std=STD)


def draw_statistics(tower: torch.nn.Module) -> None:
    """Running means about 0 and variances about 1, unlike any batch's."""
    generator = torch.Generator().manual_seed(0)
    for module in tower.modules():
        if isinstance(module, _BatchNorm):
            assert module.running_mean is not None
            assert module.running_var is not None
            shape = module.running_mean.shape
            module.running_mean.copy_(torch.randn(shape, generator=generator) * 0.1)
            module.running_var.copy_(0.5 + torch.rand(shape, generator=generator))
