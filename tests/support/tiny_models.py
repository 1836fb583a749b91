"""Random tiny Qwen2.5-VL models, prompts and responses: no tokenizer, no files, no training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import LlavaConfig, Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from vqr1.records import PromptBatch

VOCABULARY = 96
IMAGE_TOKEN, VISION_START, VISION_END, VIDEO_TOKEN = 90, 91, 92, 93
END_OF_TEXT, END_OF_TURN = 94, 95
PATCH = 14


def tiny_config(
    *,
    hidden: int = 48,
    layers: int = 3,
    heads: int = 4,
    kv_heads: int = 2,
    vocabulary: int = VOCABULARY,
):
    """Configuration of a model with grouped heads, window and full attention, and mRoPE."""
    size = hidden // heads
    section = [size // 2 - 2 * (size // 6), size // 6, size // 6]
    return Qwen2_5_VLConfig(
        text_config={
            "vocab_size": vocabulary,
            "hidden_size": hidden,
            "intermediate_size": 2 * hidden,
            "num_hidden_layers": layers,
            "num_attention_heads": heads,
            "num_key_value_heads": kv_heads,
            "max_position_embeddings": 1024,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 10000.0,
                "mrope_section": section,
            },
            "bos_token_id": END_OF_TEXT,
            "eos_token_id": END_OF_TURN,
            "pad_token_id": END_OF_TEXT,
            "tie_word_embeddings": False,
        },
        vision_config={
            "depth": 2,
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_heads": 2,
            "out_hidden_size": hidden,
            "patch_size": PATCH,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            "window_size": 56,
            "fullatt_block_indexes": [1],
        },
        image_token_id=IMAGE_TOKEN,
        video_token_id=VIDEO_TOKEN,
        vision_start_token_id=VISION_START,
        vision_end_token_id=VISION_END,
        tie_word_embeddings=False,
    )


def linear_of_a_family() -> Any:
    """What records of settings ask of a policy: weights, and a configuration of a known family."""
    model: Any = torch.nn.Linear(2, 1)
    model.config = LlavaConfig(vision_feature_layer=-2)
    return model


def tiny_model(
    seed: int = 0, std: float = 0.15, dtype: torch.dtype = torch.float32, **sizes: int
) -> Qwen2_5_VLForConditionalGeneration:
    """A model with weights drawn with `std`, wide enough that its outputs are far from uniform."""
    model = Qwen2_5_VLForConditionalGeneration(tiny_config(**sizes)).to(dtype)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            noise = torch.randn(weight.shape, generator=generator) * std
            weight.copy_(1 + noise if "norm" in name or "ln_q" in name else noise)
    return model.eval()


def tiny_prompts(grids: Sequence[tuple[int, int]], texts: Sequence[int], seed: int = 0):
    """Prompts of images with (rows, columns) merged patches, followed by `texts` text tokens."""
    generator = torch.Generator().manual_seed(seed)
    ids, images = [], []
    for (rows, columns), text in zip(grids, texts, strict=True):
        words = torch.randint(0, 90, (3 + text,), generator=generator)
        start, end = torch.tensor([VISION_START]), torch.tensor([VISION_END])
        places = torch.full((rows * columns,), IMAGE_TOKEN)
        ids.append(torch.cat([words[:3], start, places, end, words[3:]]))
        size = (2 * rows * PATCH, 2 * columns * PATCH, 3)
        images.append(torch.randint(0, 256, size, dtype=torch.uint8, generator=generator))
    return PromptBatch(tuple(ids), tuple((image,) for image in images))


def random_responses(lengths: Sequence[Sequence[int]], seed: int = 0) -> tuple[Tensor, Tensor]:
    """Tokens and mask [B, K, C] of random responses with the given lengths."""
    counts = torch.tensor(lengths)
    longest = max(1, int(counts.max()))
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(0, 90, (*counts.shape, longest), generator=generator)
    return tokens, torch.arange(longest) < counts[..., None]
