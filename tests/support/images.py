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


def progressive_scans(repeats: int, form: str = "JPEG") -> bytes:
    """A progressive JPEG, or an MPO file of two, whose (first) image repeats its last scan."""
    file = io.BytesIO()
    second = {"save_all": True, "append_images": [noise_image(2)]} if form == "MPO" else {}
    noise_image(1).save(file, form, progressive=True, **second)
    content = file.getvalue()
    end = content.index(b"\xff\xd9")
    last = content.rindex(b"\xff\xda", 0, end)
    return content[:end] + content[last:end] * repeats + content[end:]


def sequential_scans(repeats: int) -> bytes:
    """A baseline JPEG of three components, each in scans of its own; those of the first repeat."""
    file = io.BytesIO()
    noise_image(1).convert("L").save(file, "JPEG")
    grey = file.getvalue()
    frame, tables, scan = (grey.index(mark) for mark in (b"\xff\xc0", b"\xff\xc4", b"\xff\xda"))
    components = b"".join(bytes((number, 0x11, 0)) for number in (1, 2, 3))
    length = (8 + len(components)).to_bytes(2, "big")
    # Of a scan's header the fifth byte names its component.
    first, *others = (grey[scan:-2][:5] + bytes((one,)) + grey[scan:-2][6:] for one in (1, 2, 3))
    return b"".join(
        (
            grey[: frame + 2], length, grey[frame + 4 : frame + 9], b"\x03", components,
            grey[tables:scan], first * repeats, *others, b"\xff\xd9",
        )
    )  # fmt: skip
