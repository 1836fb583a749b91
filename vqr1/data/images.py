"""One image file to one RGB image, converted properly or refused.

Choices made here, for every caller:

- the EXIF orientation is applied;
- transparent pixels are shown on white (as the published evaluation shows them);
- 16-bit greyscale is scaled to 8 bits (not clipped); floating-point images are refused;
- an animation or multi-page file gives its first frame;
- colour profiles are not applied, as in the published evaluation;
- an image of more than `MAX_IMAGE_PIXELS` pixels, and one whose data ends early, is refused. The
  size in its header decides, before any pixel is decoded; the environment variable
  `VQR1_MAX_IMAGE_PIXELS` sets another limit for a command and its workers.
"""

from __future__ import annotations

import os
import struct
import zlib
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from vqr1.errors import ConfigError, DataError

MAX_IMAGE_PIXELS = 89_478_485
"""Largest image that is decoded: 256 MB as RGB (Pillow's own bound for a warning)."""

LIMIT_VARIABLE = "VQR1_MAX_IMAGE_PIXELS"

_DECODE_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    IndexError,
    TypeError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)
"""What Pillow's plugins raise on damaged files."""


def load_image(path: Path, short_edge: int | None = None) -> Image.Image:
    """Decode an image file to 8-bit RGB.

    Args:
        path: the file.
        short_edge: resize (bicubic, keeping the aspect ratio) so that the shorter side has this
            many pixels.

    Raises:
        DataError: the file is missing, a folder, empty, damaged, too large or not an image;
            names path and reason.
    """
    # Unlike Path.is_dir, these do not raise in a folder that may not be looked into.
    if os.path.isdir(path):
        raise DataError(f"{path}: is a folder, not an image")
    try:
        size = path.stat().st_size
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        missing = isinstance(error, FileNotFoundError | NotADirectoryError | ValueError)
        printed = "no such image" if missing else f"the image cannot be read ({reason})"
        raise DataError(f"{path}: {printed}") from error
    if not os.path.isfile(path):
        raise DataError(f"{path}: no such image")
    if size == 0:
        raise DataError(f"{path}: the image file is empty (0 bytes)")
    image = decode_image(path, str(path))
    return image if short_edge is None else resize_short_edge(image, short_edge)


def decode_image(
    file: Path | BinaryIO,
    name: str,
    *,
    max_pixels: int | None = None,
    formats: tuple[str, ...] | None = None,
) -> Image.Image:
    """Decode an image to 8-bit RGB.

    Args:
        file: a file, or a stream that can be rewound.
        name: what errors call it.
        max_pixels: a larger image is refused before it is decoded; None takes the common limit.
        formats: Pillow's names of the formats that are tried; None tries all of them.

    Raises:
        DataError: damaged, too large or not an image; names the image and the reason.
    """
    try:
        with Image.open(file, formats=formats) as opened:
            _check_size(opened, name, max_pixels)
            opened.load()
            return to_rgb(ImageOps.exif_transpose(opened))
    except UnidentifiedImageError as error:
        # Pillow's own message shows the stream's address in memory.
        raise DataError(
            f"{name}: the image does not decode (cannot identify its format)"
        ) from error
    except _DECODE_ERRORS as error:
        raise DataError(f"{name}: the image does not decode ({error})") from error


def to_rgb(image: Image.Image) -> Image.Image:
    """Any Pillow mode as 8-bit RGB, on white where transparent.

    Raises:
        ValueError: floating-point pixels, or integers beyond 16 bits.
    """
    if image.mode.startswith("I"):
        return _from_16_bit(image)
    if image.mode == "F":
        raise ValueError("floating-point pixels have no fixed range; save it as 8 or 16 bits")
    if image.has_transparency_data:
        layered = image.convert("RGBA")
        white = Image.new("RGBA", layered.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, layered).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def resize_short_edge(image: Image.Image, short_edge: int) -> Image.Image:
    """Resize so that the shorter side has `short_edge` pixels (bicubic, aspect ratio kept)."""
    width, height = image.size
    shorter = min(width, height)
    if shorter == short_edge:
        return image
    longer = int(short_edge * max(width, height) / shorter)
    size = (short_edge, longer) if width <= height else (longer, short_edge)
    return image.resize(size, Image.Resampling.BICUBIC)


def _check_size(image: Image.Image, name: str, max_pixels: int | None) -> None:
    width, height = image.size
    limit = _pixel_limit() if max_pixels is None else max_pixels
    if width * height > limit:
        fix = f" (the environment variable {LIMIT_VARIABLE} raises the limit)"
        raise DataError(
            f"{name}: {width} x {height} pixels; more than {limit} are not decoded"
            f"{fix if max_pixels is None else ''}"
        )


def _pixel_limit() -> int:
    text = os.environ.get(LIMIT_VARIABLE, str(MAX_IMAGE_PIXELS))
    if not (text.isascii() and text.isdigit()):
        raise ConfigError([f"{LIMIT_VARIABLE}={text}: must be a whole number of pixels"])
    return int(text)


def _from_16_bit(image: Image.Image) -> Image.Image:
    pixels = np.asarray(image)
    low, high = int(pixels.min()), int(pixels.max())
    if low < 0 or high > 65535:
        raise ValueError(f"integer pixels from {low} to {high}; at most 16 bits are understood")
    eight_bits = (pixels.astype(np.uint32) * 255 + 32767) // 65535
    return Image.fromarray(eight_bits.astype(np.uint8)).convert("RGB")
