"""Changes of an image that should hardly change its quality. Each keeps RGB.

| name | change |
|---|---|
| `flip` | mirrored left to right |
| `crop` | 1 % of width and height cut off on each side: 2 % in all |
| `resize` | to 95 % of width and height, bicubic |
| `jpeg` | encoded as JPEG of quality 95, without chroma subsampling, and decoded |

Not here: scoring what comes out (`consistency.py`).
"""

from __future__ import annotations

import io
from collections.abc import Callable

from PIL import Image, ImageOps

from vqr1.config.evaluation import Perturbation

CROP = 0.02
"""Share of width and height that is cut off."""

SCALE = 0.95
"""Width and height after resizing, relative to before."""

QUALITY = 95


def _crop(image: Image.Image) -> Image.Image:
    width, height = image.size
    left, top = round(width * CROP / 2), round(height * CROP / 2)
    return image.crop((left, top, width - left, height - top))


def _resize(image: Image.Image) -> Image.Image:
    width, height = (max(1, round(side * SCALE)) for side in image.size)
    return image.resize((width, height), Image.Resampling.BICUBIC)


def _jpeg(image: Image.Image) -> Image.Image:
    stream = io.BytesIO()
    image.save(stream, format="JPEG", quality=QUALITY, subsampling=0)
    return Image.open(io.BytesIO(stream.getvalue())).convert("RGB")


CHANGES: dict[Perturbation, Callable[[Image.Image], Image.Image]] = {
    "flip": ImageOps.mirror,
    "crop": _crop,
    "resize": _resize,
    "jpeg": _jpeg,
}
"""The changes by name."""
