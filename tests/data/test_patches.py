from __future__ import annotations

import numpy as np
import torch
from PIL import Image

from vqr1.config import ModelConfig
from vqr1.data.patches import pictures_of
from vqr1.data.prompts import PromptBuilder
from vqr1.policy.loading import load_processor

MODEL = ModelConfig(name="tiny", path=None, min_pixels=28 * 28, max_pixels=112 * 112)


def test_pictures_come_back_to_the_last_bit() -> None:
    processor = load_processor(MODEL)
    builder = PromptBuilder(
        processor, "How good?", MODEL.min_pixels, MODEL.max_pixels, vision_id=True
    )
    rng = np.random.default_rng(0)
    # every grey level in every channel, and sizes of both orientations
    levels = np.arange(256, dtype=np.uint8).repeat(3).reshape(16, 16, 3)
    sources = [
        Image.fromarray(levels).resize((112, 56), Image.Resampling.NEAREST),
        Image.fromarray(rng.integers(0, 256, (84, 28, 3), dtype=np.uint8)),
        Image.fromarray(rng.integers(0, 256, (300, 200, 3), dtype=np.uint8)),
    ]
    resized = [builder.resize(source) for source in sources]
    back = pictures_of(builder.from_resized(resized), processor.image_processor)
    assert [tuple(picture.shape) for picture in back] == [tuple(p.shape) for p in resized]
    for picture, expected in zip(back, resized, strict=True):
        assert torch.equal(picture, expected)
