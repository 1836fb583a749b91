"""What may be scored: files, Pillow images, tensors; each becomes an 8-bit RGB image.

Not here: decoding files (`vqr1.data.images`), finding them (`files.py`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageOps
from torch import Tensor

from vqr1.data.images import WHOLE, load_image, to_rgb
from vqr1.errors import DataError
from vqr1.row_names import row_name

ImageSource = str | Path | Image.Image | Tensor
"""One image: a file, a Pillow image, or pixels [3, H, W] in [0, 1]."""


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
        DataError: it does not decode, holds no pixels, or is a tensor outside the rules of
            `image_of_tensor`.
    """
    if isinstance(image, Tensor):
        return image_of_tensor(image)
    if isinstance(image, str | Path):
        return load_image(Path(image))
    if 0 in image.size:
        raise DataError(f"an image of {image.width} x {image.height} pixels shows nothing")
    try:
        return to_rgb(ImageOps.exif_transpose(image))
    except (OSError, ValueError, SyntaxError) as error:
        raise DataError(f"the image does not decode ({error})") from error


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


def split_images(images: ImageSource | Iterable[ImageGroup]) -> Iterable[ImageGroup]:
    """One image or several, [N, 3, H, W] too, as what each prompt is about.

    Raises:
        DataError: a tensor with another number of dimensions.
    """
    if isinstance(images, Tensor):
        if images.ndim == 4:
            return images.unbind(0)
        if images.ndim != 3:
            raise DataError(
                f"an image tensor of shape {tuple(images.shape)}: give (N, 3, H, W) or (3, H, W)"
            )
        return [images]
    return [images] if isinstance(images, str | Path | Image.Image) else images


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
    single = isinstance(references, str | Path | Image.Image) or (
        isinstance(references, Tensor) and references.ndim == 3
    )
    if single:
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
