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
from transformers import Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLProcessor

from tools.tiny_policy.factory import MAX_PIXELS, MIN_PIXELS, build_processor, build_tokenizer
from vqr1.policy.families.qwen2_5_vl import FAMILY
from vqr1.policy.prompts import resize_rule
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


def processor() -> Qwen2_5_VLProcessor:
    """A real Qwen2.5-VL processor over a small tokenizer that knows the question's words."""
    return build_processor(
        build_tokenizer([QUESTION, "system user assistant You are a helpful assistant."], 512)
    )


def build_model(shape: str, dtype: torch.dtype, device: torch.device) -> Any:
    """A model of the given shape with random weights."""
    config = FAMILY.shape_config(shape, processor().tokenizer.convert_tokens_to_ids)
    torch.manual_seed(0)
    with torch.device(device):
        return Qwen2_5_VLForConditionalGeneration._from_config(config, dtype=dtype)


def save_weights(shape: str, dtype: torch.dtype, device: torch.device, folder: Path) -> None:
    """Writes the weights that both contestants start from."""
    build_model(shape, dtype, device).save_pretrained(folder)


def loaded_images(size: Size) -> list[Image.Image]:
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
    rule = resize_rule(FAMILY, reader.image_processor, MIN_PIXELS, MAX_PIXELS)
    ids = [
        reader(text=[text], images=[image], return_tensors="pt")["input_ids"][0] for image in images
    ]
    return PromptBatch(tuple(ids), tuple((rule.pixels(image),) for image in images))


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
