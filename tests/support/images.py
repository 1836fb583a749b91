"""Small random images and a question, for tests that need any image and any prompt."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

SENTENCE = "What is your overall rating on the quality of this picture?"


def noise_image(seed: int, width: int = 40, height: int = 32) -> Image.Image:
    """RGB noise, the same for the same seed and size."""
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def png_bytes(seed: int) -> bytes:
    """A small PNG file of noise."""
    file = io.BytesIO()
    noise_image(seed).save(file, "PNG")
    return file.getvalue()
