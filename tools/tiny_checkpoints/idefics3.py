"""A tiny random checkpoint of the first SmolVLM; see `smolvlm.py`."""

from __future__ import annotations

from transformers import (
    Idefics3Config,
    Idefics3ForConditionalGeneration,
    Idefics3ImageProcessor,
    Idefics3Processor,
)

from tools.tiny_checkpoints._folder import Checkpoint
from tools.tiny_checkpoints.smolvlm import (
    CHAT_TEMPLATE,
    IMAGE_TOKENS,
    IMAGES,
    smol_config,
    smol_generation,
    smol_tokenizer,
)


def checkpoint() -> Checkpoint:
    """Model and processor; see `Checkpoint`."""
    tokenizer = smol_tokenizer()
    processor = Idefics3Processor(
        Idefics3ImageProcessor(**IMAGES),
        tokenizer,
        image_seq_len=IMAGE_TOKENS,
        chat_template=CHAT_TEMPLATE,
    )
    model = Idefics3ForConditionalGeneration(smol_config(Idefics3Config, tokenizer))
    return Checkpoint(model, processor, smol_generation(tokenizer))
