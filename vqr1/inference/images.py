"""What may be scored: files, their bytes, Pillow images, arrays, tensors; as 8-bit RGB images.

Not here: decoding files (`vqr1.data.images`), finding them (`files.py`).
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from vqr1.data.images import WHOLE, decode_image, load_image, to_rgb, upright
from vqr1.errors import DataError
from vqr1.row_names import row_name

Array = np.ndarray[Any, Any]

ImageSource = str | Path | bytes | BinaryIO | Image.Image | Array | Tensor
"""One image: a file by its path, its bytes or opened; a Pillow image; an array [H, W, C] or [H, W]
as `open_image` takes it; a tensor [3, H, W] in [0, 1]."""

GREY, RGB, RGBA = 1, 3, 4
"""Channels that an array may have."""


ImageGroup = ImageSource | tuple[ImageSource, ...] | list[Any]
"""What one prompt is about: one image, or a tuple or list of several in the prompt's order."""


def name_of(image: ImageGroup) -> str | None:
    """The path of a file as it was given, of several those of all; None for images and tensors."""
    if isinstance(image, tuple | list):
        names = [name for one in image if (name := name_of(one)) is not None]
        return row_name(names) if len(names) == len(image) else None
    return str(image) if isinstance(image, str | Path) else None


def members(image: ImageGroup) -> tuple[ImageSource, ...]:
    """The images that one prompt is about."""
    return tuple(image) if isinstance(image, tuple | list) else (image,)


def open_image(image: ImageSource) -> Image.Image:
    """An image as 8-bit RGB.

    Raises:
        DataError: it does not decode, holds no pixels, is no image at all, or an array or a tensor
            outside the rules of `image_of_array` and `image_of_tensor`.
    """
    if isinstance(image, Tensor):
        return image_of_tensor(image)
    if isinstance(image, np.ndarray):
        return image_of_array(image)
    if isinstance(image, str | Path):
        return load_image(Path(image))
    if isinstance(image, bytes | bytearray | memoryview):
        return decode_image(io.BytesIO(image), "the image")
    if hasattr(image, "read"):
        return decode_image(io.BytesIO(image.read()), str(getattr(image, "name", "the image")))
    if not isinstance(image, Image.Image):
        raise DataError(
            f"an image of type {type(image).__name__}: give a path, the bytes of an image file, a "
            "Pillow image, a NumPy array or a tensor"
        )
    if 0 in image.size:
        raise DataError(f"an image of {image.width} x {image.height} pixels shows nothing")
    try:
        image.load()
        return to_rgb(upright(image))
    except (OSError, ValueError, SyntaxError) as error:
        raise DataError(f"the image does not decode ({error})") from error


def is_file(image: ImageSource) -> bool:
    """Whether what is wrong with an image is wrong in its file, not in the caller's code."""
    return _is_single(image) and not isinstance(image, Tensor | np.ndarray)


def decoded_sizes(sizes: Sequence[str | None]) -> str | None:
    """What `Result.decoded_at` states of the images of one prompt.

    Args:
        sizes: `decoded_at` of each.
    """
    return row_name([size or WHOLE for size in sizes]) if any(sizes) else None


def image_of_tensor(pixels: Tensor) -> Image.Image:
    """Pixels as an image, rounded to 8 bits; no gradient flows back.

    Args:
        pixels: [3, H, W] of a floating type, RGB in [0, 1].

    Raises:
        DataError: another shape or type, or values outside [0, 1].
    """
    if pixels.ndim != 3 or pixels.shape[0] != 3 or 0 in pixels.shape:
        raise DataError(
            f"an image tensor of shape {tuple(pixels.shape)}: give (3, H, W), or (N, 3, H, W) for "
            "several images"
        )
    if not pixels.is_floating_point():
        raise DataError(
            f"an image tensor of type {pixels.dtype}: give floating numbers in [0, 1], 8-bit "
            "pixels divided by 255"
        )
    values = pixels.detach().to("cpu", torch.float32)
    low, high = float(values.min()), float(values.max())
    # Written so that NaN, for which every comparison is false, is refused too.
    if not (low >= 0.0 and high <= 1.0):
        raise DataError(
            f"an image tensor with values from {low:g} to {high:g}: they must lie in [0, 1]; clamp "
            "or rescale them"
        )
    eight_bits = (values * 255.0).round().to(torch.uint8)
    return Image.fromarray(eight_bits.permute(1, 2, 0).contiguous().numpy())


def image_of_array(pixels: Array) -> Image.Image:
    """An array as an image.

    Args:
        pixels: [H, W, C] or [H, W], of 8 bits, or of floating numbers in [0, 1], which are rounded
            to 8 bits; C is 3 (RGB), 4 (RGBA, shown on white) or 1.

    Raises:
        DataError: another shape or type, or values outside [0, 1].
    """
    shown = f"an image array of shape {pixels.shape}"
    if pixels.ndim == 3 and pixels.shape[-1] == GREY:
        pixels = pixels[..., 0]
    channels = pixels.shape[-1] if pixels.ndim == 3 else GREY
    if pixels.ndim not in (2, 3) or 0 in pixels.shape or channels not in (GREY, RGB, RGBA):
        raise DataError(
            f"{shown}: give (H, W, 3) in the order RGB, (H, W, 4) or (H, W); tensors are (3, H, W)"
        )
    if np.issubdtype(pixels.dtype, np.floating):
        low, high = float(pixels.min()), float(pixels.max())
        if not (low >= 0.0 and high <= 1.0):
            raise DataError(
                f"{shown} with values from {low:g} to {high:g}: floating numbers must lie in "
                "[0, 1]; divide by 255, or give 8-bit numbers"
            )
        pixels = (pixels * 255.0).round().astype(np.uint8)
    if pixels.dtype != np.uint8:
        raise DataError(
            f"{shown} of type {pixels.dtype}: give 8-bit numbers, or floating ones in [0, 1]"
        )
    return to_rgb(Image.fromarray(np.ascontiguousarray(pixels)))


def _is_single(images: Any) -> bool:
    """Whether this is one image, and no several."""
    if isinstance(images, Tensor | np.ndarray):
        return images.ndim < 4
    return isinstance(images, str | Path | bytes | bytearray | Image.Image) or hasattr(
        images, "read"
    )


def split_images(images: ImageSource | Iterable[ImageGroup]) -> Iterable[ImageGroup]:
    """One image or several, [N, 3, H, W] too, as what each prompt is about.

    Raises:
        DataError: a tensor with another number of dimensions, or nothing that holds images.
    """
    one: Any = images
    if isinstance(images, Tensor) and images.ndim not in (3, 4):
        raise DataError(
            f"an image tensor of shape {tuple(images.shape)}: give (N, 3, H, W) or (3, H, W)"
        )
    if _is_single(one):
        return [one]
    if isinstance(images, Tensor):
        return images.unbind(0)
    if not isinstance(images, Iterable):
        open_image(one)  # refuses it
    several: Iterable[ImageGroup] = one
    return several


def beside_references(
    images: ImageSource | Iterable[ImageGroup], references: ImageSource | Iterable[ImageSource]
) -> Iterator[ImageGroup]:
    """Each image after its reference.

    Args:
        images: one image or several, as `split_images` takes them.
        references: one reference for all images, or as many as there are images.

    Raises:
        DataError: another number of references than of images, or an image that is a group already.
    """
    if _is_single(references):
        one: Any = references
        for image in split_images(images):
            yield (one, *_alone(image))
        return
    missing: Any = object()
    every: Iterable[Any] = split_images(images)
    others: Iterable[Any] = split_images(references)
    for number, (image, reference) in enumerate(zip_longest(every, others, fillvalue=missing)):
        if image is missing or reference is missing:
            fewer, more = ("images", "references") if image is missing else ("references", "images")
            raise DataError(
                f"{number} {fewer}, and more {more}: give one reference for each image, or a "
                "single one for all"
            )
        yield (reference, *_alone(image))


def _alone(image: Any) -> tuple[ImageSource, ...]:
    group = members(image)
    if len(group) != 1:
        raise DataError(f"an image with a reference is {len(group)} images already; give one")
    return group
