"""What is measured: problem sizes, models with random weights, images and prompts.

Both contestants load the weights from one folder and see the same images and prompts.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLProcessor

from vqr1.data.prompts import resize_rule
from vqr1.policy.tiny import MAX_PIXELS, MIN_PIXELS, build_processor, build_tokenizer
from vqr1.records import PromptBatch

QUESTION = (
    "You are doing the image quality assessment task. Here is the question: What is your overall "
    "rating on the quality of this picture?"
)
KL_WEIGHT, LEARNING_RATE = 0.04, 1e-6


@dataclass(frozen=True)
class Size:
    """One problem: B images of width x height, K responses of exactly C tokens."""

    name: str
    width: int
    height: int
    images: int
    group: int
    tokens: int


SIZES = {
    size.name: size
    for size in (
        Size("448x336", 448, 336, images=4, group=6, tokens=64),
        Size("512x384", 512, 384, images=4, group=6, tokens=128),
        Size("1024x768", 1024, 768, images=1, group=8, tokens=64),
    )
}

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


def processor() -> Qwen2_5_VLProcessor:
    """A real Qwen2.5-VL processor over a small tokenizer that knows the question's words."""
    return build_processor(
        build_tokenizer([QUESTION, "system user assistant You are a helpful assistant."], 512)
    )


def shape_config(shape: tuple[dict[str, Any], dict[str, Any]]) -> Qwen2_5_VLConfig:
    """The configuration of a text and a vision shape, with the small tokenizer's numbers."""
    text, vision = shape
    number = processor().tokenizer.convert_tokens_to_ids
    head = text["hidden_size"] // text["num_attention_heads"] // 2
    return Qwen2_5_VLConfig(
        text_config={
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
        },
        vision_config={**vision, "out_hidden_size": text["hidden_size"]},
        image_token_id=number("<|image_pad|>"),
        video_token_id=number("<|video_pad|>"),
        vision_start_token_id=number("<|vision_start|>"),
        vision_end_token_id=number("<|vision_end|>"),
        tie_word_embeddings=text["tie_word_embeddings"],
    )


def build_model(shape: str, dtype: torch.dtype, device: torch.device) -> Any:
    """A model of the given shape with random weights."""
    config = shape_config(SHAPES[shape])
    torch.manual_seed(0)
    with torch.device(device):
        return Qwen2_5_VLForConditionalGeneration._from_config(config, dtype=dtype)


def save_weights(shape: str, dtype: torch.dtype, device: torch.device, folder: Path) -> None:
    """Writes the weights that both contestants start from."""
    build_model(shape, dtype, device).save_pretrained(folder)


def pictures(size: Size) -> list[Image.Image]:
    """B different images: smooth colour fields with a little noise."""
    generator = np.random.default_rng(0)
    result = []
    for _ in range(size.images):
        coarse = Image.fromarray(generator.integers(0, 256, (8, 8, 3), dtype=np.uint8))
        smooth = np.asarray(coarse.resize((size.width, size.height), Image.Resampling.BICUBIC))
        noise = generator.integers(-8, 9, smooth.shape)
        result.append(Image.fromarray((smooth + noise).clip(0, 255).astype(np.uint8)))
    return result


def conversation() -> list[dict[str, Any]]:
    """The chat that asks about one image."""
    content = [{"type": "image"}, {"type": "text", "text": QUESTION}]
    return [{"role": "user", "content": content}]


def prompt_batch(reader: Qwen2_5_VLProcessor, images: list[Image.Image]) -> PromptBatch:
    """Tokenised prompts of the images."""
    text = reader.apply_chat_template(conversation(), add_generation_prompt=True, tokenize=False)
    rule = resize_rule(reader, MIN_PIXELS, MAX_PIXELS)
    ids = [
        reader(text=[text], images=[image], return_tensors="pt")["input_ids"][0] for image in images
    ]
    return PromptBatch(tuple(ids), tuple(rule.pixels(image) for image in images))


class EndlessTokenizer:
    """The tokenizer without tokens that end a turn: every response fills its length limit."""

    pad_token_id = 0
    eos_token_id = -1

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tokenizer, name)

    def __call__(self, *texts: Any, **options: Any) -> Any:
        """As the tokenizer itself."""
        return self._tokenizer(*texts, **options)

    def get_vocab(self) -> dict[str, int]:
        """The vocabulary without the two ends of a turn, which are then never drawn."""
        vocab: dict[str, int] = self._tokenizer.get_vocab()
        return {k: v for k, v in vocab.items() if k not in ("<|im_end|>", "<|endoftext|>")}
