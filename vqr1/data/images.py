"""One image file to one RGB image, converted properly or refused.

Choices made here, for every caller:

- the EXIF orientation is applied; EXIF that cannot be read is as none, in every format;
- transparent pixels are shown on white (as the published evaluation shows them);
- 16-bit greyscale is scaled to 8 bits (not clipped); floating-point images are refused;
- an animation or multi-page file gives its first frame;
- colour profiles are not applied, as in the published evaluation;
- a JPEG of more than `MAX_IMAGE_PIXELS` pixels is decoded at 1/2, 1/4 or 1/8 of its size, with the
  memory of the reduced image; a warning names it, and `decoded_at` is known of it from then on.
  Other formats cannot be decoded so and are refused, as is an image whose data ends early. The size
  in its header decides, before any pixel is decoded; the environment variable
  `VQR1_MAX_IMAGE_PIXELS` sets another limit for a command and its workers, the service has its own;
- a JPEG of more than `MAX_SCANS` scans is refused: each may take as long as the whole image;
- one rule of what an image file is, for data sets, command line and service: by content, one of
  `image_formats()` (Pillow reads more, among them formats that start other programs); where a
  folder is searched, by `IMAGE_SUFFIXES` first. HEIC is read where `pillow-heif` is installed.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import re
import struct
import zlib
from contextlib import nullcontext
from functools import cache
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps, JpegImagePlugin, UnidentifiedImageError

from vqr1.errors import ConfigError, DataError

logger = logging.getLogger(__name__)

IMAGE_SUFFIXES = frozenset(
    (
        ".avif", ".bmp", ".gif", ".heic", ".heif", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg", ".pgm",
        ".png", ".pnm", ".ppm", ".tif", ".tiff", ".webp",
    )
)  # fmt: skip
"""Endings, in lower case, by which images are known from other files in folders and globs."""

_FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")

MAX_IMAGE_PIXELS = 89_478_485
"""Largest image that is decoded: 256 MB as RGB (Pillow's own bound for a warning)."""

LIMIT_VARIABLE = "VQR1_MAX_IMAGE_PIXELS"

MAX_SCANS = 100
"""Scans of a JPEG, progressive or not; encoders write up to some 20 (ten by default)."""

_END_OF_IMAGE, _START_OF_SCAN = 0xD9, 0xDA
_SEGMENT = re.compile(rb"\xff([\xc0-\xcf\xd9-\xfe])")
"""Begins what has a length, or ends the image; not what compressed data may hold (0, restarts)."""

MAX_RATIO = 200
"""Largest side of an image in terms of its other side, by the rule of the published processors."""

WHOLE = "whole"
"""Stands in a `decoded_at` of several images for those that were decoded whole."""

_DECODED_AT = "vqr1_decoded_at"
"""Key of `Image.info`, which Pillow hands on to images that are made of one."""

_DECODE_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    IndexError,
    TypeError,
    struct.error,
    zlib.error,
)
"""What Pillow's plugins raise on damaged files."""


def is_image_name(name: str) -> bool:
    """Whether a file of a folder is taken for an image: by its ending, hidden ones never."""
    return not name.startswith(".") and os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES


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


def load_thumbnail(path: Path, edge: int) -> Image.Image:
    """An image in grey, decoded at the smallest size that its format offers above `edge`.

    Args:
        path: the file.
        edge: pixels that both sides have at least, where the image has them.

    Raises:
        DataError: as `load_image`.
    """
    return decode_image(path, str(path), thumbnail=edge).convert("L")


def decode_image(
    file: Path | BinaryIO,
    name: str,
    *,
    max_pixels: int | None = None,
    thumbnail: int | None = None,
) -> Image.Image:
    """Decode an image to 8-bit RGB.

    Args:
        file: a file, or a stream that can be rewound.
        name: what errors call it.
        max_pixels: the largest image that is decoded whole; None takes the common limit.
        thumbnail: a JPEG may be decoded in grey, at a size not below this many pixels.

    Raises:
        DataError: damaged, too large, of too many scans or not an image; names the image and the
            reason.
    """
    limit = _pixel_limit() if max_pixels is None else max_pixels
    # The same number unless the variable raises ours; it is the user's word for the whole process.
    if Image.MAX_IMAGE_PIXELS is not None and limit > Image.MAX_IMAGE_PIXELS:
        Image.MAX_IMAGE_PIXELS = limit
    fix = f" (the environment variable {LIMIT_VARIABLE} raises the limit)"
    refusal = f"more than {limit} are not decoded{{}}{fix if max_pixels is None else ''}"
    try:
        with _opened(file) as opened:
            if isinstance(opened, JpegImagePlugin.JpegImageFile) and opened.fp is not None:
                position = opened.fp.tell()
                opened.fp.seek(0)
                jpeg_scans(opened.fp.read(), name)
                opened.fp.seek(position)
            reduced = False
            if thumbnail is None:
                reduced = _reduce_jpeg(opened, name, limit)
            elif not _held_whole(opened, limit):
                opened.draft("L", (thumbnail, thumbnail))
            _check_size(opened, name, limit, refusal)
            _scale_transparency(opened)
            opened.load()
            image = to_rgb(upright(opened))
            if reduced:
                image.info[_DECODED_AT] = f"{image.width}x{image.height}"
            return image
    except UnidentifiedImageError as error:
        # Pillow's own message shows the stream's address in memory.
        heic = Path(name).suffix.lower() in (".heic", ".heif") and not _register_heif()
        reason = "HEIC needs the package pillow-heif" if heic else "cannot identify its format"
        raise DataError(f"{name}: the image does not decode ({reason})") from error
    except Image.DecompressionBombError as error:
        raise DataError(f"{name}: too many pixels; {refusal.format('')}") from error
    except _DECODE_ERRORS as error:
        raise DataError(f"{name}: the image does not decode ({error})") from error


def jpeg_scans(content: bytes, name: str) -> int:
    """How many scans a JPEG has at most: where they are few, those of previews count too.

    Args:
        content: the whole file.
        name: what errors call it.

    Raises:
        DataError: more than `MAX_SCANS`.
    """
    most = content.count(bytes((0xFF, _START_OF_SCAN)))
    if most <= MAX_SCANS:
        return most
    # Previews and what follows the image, such as the film of a motion photo, are none of it.
    scans = _scans_of_image(content)
    if scans > MAX_SCANS:
        raise DataError(f"{name}: a JPEG of more than {MAX_SCANS} scans is not decoded")
    return scans


def _scans_of_image(content: bytes) -> int:
    """Walks from segment to segment, as libjpeg does, until there are too many."""
    scans, position = 0, 2
    while scans <= MAX_SCANS and (found := _SEGMENT.search(content, position)):
        if found[1][0] == _END_OF_IMAGE:
            break
        scans += found[1][0] == _START_OF_SCAN
        length = content[found.end() : found.end() + 2]
        position = found.end() + max(2, int.from_bytes(length, "big"))
    return scans


def check_ratio(width: int, height: int) -> None:
    """Check that an image is not too narrow for a model to be shown.

    Raises:
        DataError: one side is more than `MAX_RATIO` times the other.
    """
    if max(width, height) > MAX_RATIO * min(width, height):
        raise DataError(
            f"an image of {width} x {height} pixels is too narrow: one side may be at most "
            f"{MAX_RATIO} times the other"
        )


def decoded_at(image: Image.Image) -> str | None:
    """Width and height, as `6000x5000`, that an image with too many pixels was decoded at.

    Args:
        image: as `load_image` or `decode_image` gave it, resized since or not.

    Returns:
        None of an image that was decoded whole.
    """
    return image.info.get(_DECODED_AT)


def upright(image: Image.Image) -> Image.Image:
    """An image turned as its EXIF orientation states; as it is where its EXIF cannot be read.

    Args:
        image: with its pixels loaded, so that nothing but its EXIF may be damaged.
    """
    try:
        return ImageOps.exif_transpose(image)
    except _DECODE_ERRORS as error:
        logger.debug("EXIF that cannot be read: %s", error)
        return image


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


def image_formats() -> tuple[str, ...]:
    """Pillow's names of the formats that are decoded."""
    return (*_FORMATS, "HEIF") if _register_heif() else _FORMATS


@cache
def _register_heif() -> bool:
    """Whether HEIC can be read; adds it to Pillow where `pillow-heif` is installed."""
    if importlib.util.find_spec("pillow_heif") is None:
        return False
    from pillow_heif import register_heif_opener

    register_heif_opener()
    return True


def _opened(file: Path | BinaryIO) -> Image.Image:
    """An image whose header is read, beyond Pillow's own limit of pixels too: ours decides."""
    try:
        return Image.open(file, formats=image_formats())
    except Image.DecompressionBombError:
        pass
    with file.open("rb") if isinstance(file, Path) else nullcontext(file) as content:
        content.seek(0)
        beginning = content.read(16)
        content.seek(0)
    Image.init()
    for name in image_formats():
        open_file, accepts = Image.OPEN[name]
        # A text in place of a truth states which part of Pillow is missing for the format.
        if accepts is not None and accepts(beginning) in (True, 1):
            image: Image.Image = open_file(file, "")  # type: ignore[arg-type]
            return image
    raise UnidentifiedImageError


def _reduce_jpeg(image: Image.Image, name: str, limit: int) -> bool:
    """Have a JPEG of too many pixels decoded at the largest of 1/2, 1/4, 1/8 that is allowed.

    Returns:
        Whether it will be.
    """
    width, height = image.size
    jpeg = isinstance(image, JpegImagePlugin.JpegImageFile)
    if not jpeg or width * height <= limit or _held_whole(image, limit):
        return False
    for scale in (2, 4, 8):
        size = (-(-width // scale), -(-height // scale))
        if size[0] * size[1] <= limit:
            image.draft(None, (width // scale, height // scale))
            logger.warning(
                "%s: %d x %d pixels, more than %d: decoded at %d x %d",
                name, width, height, limit, *image.size,
            )  # fmt: skip
            return True
    return False


def _held_whole(image: Image.Image, limit: int) -> bool:
    """Whether decoding a JPEG smaller saves too little memory to be allowed.

    libjpeg holds all coefficients of a progressive file, whatever size it is decoded at: those of
    more than four times the limit of pixels stay as they are, and are refused.
    """
    width, height = image.size
    return bool(image.info.get("progressive")) and width * height > 4 * limit


def _check_size(image: Image.Image, name: str, limit: int, refusal: str) -> None:
    width, height = image.size
    if width * height > limit:
        jpeg = isinstance(image, JpegImagePlugin.JpegImageFile)
        rule = "" if jpeg else f", and {image.format} cannot be decoded smaller, as JPEG can"
        raise DataError(f"{name}: {width} x {height} pixels; {refusal.format(rule)}")


def _pixel_limit() -> int:
    text = os.environ.get(LIMIT_VARIABLE, str(MAX_IMAGE_PIXELS))
    if not (text.isascii() and text.isdigit()):
        raise ConfigError([f"{LIMIT_VARIABLE}={text}: must be a whole number of pixels"])
    return int(text)


def _scale_transparency(image: Image.Image) -> None:
    """Bring the transparent colour of a PNG to the 8 bits that its pixels are read as.

    Pillow does so with the pixels of 2, 4 and (in colour) 16 bits alone. Of 16 bits the upper 8 are
    compared, since it drops the others of the pixels.
    """
    transparent, tile = image.info.get("transparency"), getattr(image, "tile", None)
    kind = tile[0].args if tile else None
    if kind in ("L;2", "L;4") and isinstance(transparent, int):
        image.info["transparency"] = (transparent * (85 if kind == "L;2" else 17)) & 255
    elif kind == "RGB;16B" and isinstance(transparent, tuple):
        image.info["transparency"] = tuple(value >> 8 for value in transparent)


def _from_16_bit(image: Image.Image) -> Image.Image:
    pixels = np.asarray(image)
    low, high = int(pixels.min()), int(pixels.max())
    if low < 0 or high > 65535:
        raise ValueError(f"integer pixels from {low} to {high}; at most 16 bits are understood")
    eight_bits = (pixels.astype(np.uint32) * 255 + 32767) // 65535
    transparent = image.info.get("transparency")
    if transparent is not None:
        eight_bits[pixels == transparent] = 255
    return Image.fromarray(eight_bits.astype(np.uint8)).convert("RGB")
