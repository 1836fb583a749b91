"""How LLaVA's families take in an image: every image becomes one of the same size.

The checkpoint's own image processor resizes: the short side to a given length and the centre cut
out, or both sides to given lengths, perhaps padded to a square first. It is asked to stop before
it changes the type of numbers, so batches carry its pixels as uint8, and whoever runs the tower
normalises them.

Not here: normalisation (`_normalisation.py`), the tower, and tokens (`_llava_prompts.py`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from vqr1.data.images import check_ratio
from vqr1.errors import ConfigError
from vqr1.policy.families._normalisation import normalised, numbers_of

_ROW = 256
"""Pixels that count as one row of the tower's work."""

_DECIDES_PIXELS = (
    "do_resize", "size", "default_to_square", "resample", "do_center_crop", "crop_size", "do_pad",
    "do_convert_rgb",
)  # fmt: skip


@dataclass(frozen=True)
class FixedRule:
    """Resizes every image to one size, by an image processor of transformers.

    Attributes:
        image_processor: the checkpoint's.
        width: of resized images.
        height: of resized images.
    """

    image_processor: Any
    width: int
    height: int

    def size(self, width: int, height: int) -> tuple[int, int]:
        """Resized (width, height) of an image: always the same.

        Raises:
            DataError: one side is more than 200 times the other.
        """
        check_ratio(width, height)
        return self.width, self.height

    def pixels(self, image: Image.Image) -> Tensor:
        """[H, W, 3] uint8 pixels of an image after resizing, by the checkpoint's processor."""
        # Beyond it, resizing the short side makes an image of gigabytes, whose centre is kept.
        self.size(*image.size)
        # An array, whose order of axes no backend has to guess from an image of few pixels.
        output = self.image_processor(
            np.array(image),
            do_rescale=False,
            do_normalize=False,
            input_data_format="channels_last",
            return_tensors="pt",
        )
        pixels: Tensor = output["pixel_values"][0]
        return pixels.permute(1, 2, 0).contiguous()

    def pillow_size(self, width: int, height: int) -> tuple[int, int] | None:
        """See `ResizeRule`: the library resizes whole images."""
        return None

    def identity(self) -> Mapping[str, int]:
        """What decides the result; all settings of the processor as one number."""
        values = self.image_processor.to_dict()
        chosen = {name: values.get(name) for name in _DECIDES_PIXELS}
        if values.get("do_pad"):
            chosen["image_mean"] = values["image_mean"]  # the colour beside the image
        text = json.dumps(
            [type(self.image_processor).__name__, chosen], sort_keys=True, default=str
        )
        settings = int.from_bytes(hashlib.sha256(text.encode()).digest()[:6], "big")
        return {"width": self.width, "height": self.height, "settings": settings}


def fixed_size(image_processor: Any, title: str) -> tuple[int, int]:
    """(width, height) that an image processor makes of every image.

    Args:
        image_processor: the checkpoint's.
        title: its family, for the message.

    Raises:
        ConfigError: it makes images of several sizes, or none that is uint8.
    """
    processor = image_processor
    if getattr(processor, "do_center_crop", False):
        found = getattr(processor, "crop_size", None)
    else:
        found = getattr(processor, "size", None) if getattr(processor, "do_resize", False) else None
    width, height = (getattr(found, side, None) for side in ("width", "height"))
    pads = getattr(processor, "do_pad", False) and not hasattr(processor, "pad_to_square")
    if not (width and height) or pads:
        raise ConfigError(
            [
                f"model.path: its image processor, {type(processor).__name__}, does not bring "
                f"every image to one size, as a {title} needs; take the preprocessor_config.json "
                "of the base model"
            ]
        )
    return int(width), int(height)


def fixed_rule(image_processor: Any, title: str, min_pixels: int, max_pixels: int) -> FixedRule:
    """The rule of an image processor.

    Args:
        image_processor: the checkpoint's.
        title: its family, for the message.
        min_pixels: `model.min_pixels`.
        max_pixels: `model.max_pixels`.

    Raises:
        ConfigError: see `fixed_size`; or its one size is not within the area limits.
    """
    width, height = fixed_size(image_processor, title)
    if not min_pixels <= width * height <= max_pixels:
        raise ConfigError(
            [
                f"model.min_pixels={min_pixels}, model.max_pixels={max_pixels}: this checkpoint's "
                f"image processor makes {width} x {height} of every image; the limits must admit "
                f"{width * height} pixels"
            ]
        )
    return FixedRule(image_processor, width, height)


@dataclass(frozen=True)
class FixedEncoding:
    """Normalisation of images that all have one size.

    Attributes:
        mean: per channel, of values in [0, 1].
        std: per channel, above 0.
        rescale: factor from a grey level to [0, 1].
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    rescale: float

    @staticmethod
    def of(image_processor: Any, title: str) -> FixedEncoding:
        """The encoding of a checkpoint's image processor.

        Args:
            image_processor: the checkpoint's.
            title: its family, for the message.

        Raises:
            ConfigError: it leaves grey levels as they are, or see `fixed_size`.
        """
        fixed_size(image_processor, title)
        return FixedEncoding(*numbers_of(image_processor, title))

    def rows(self, image: Tensor) -> int:
        """Rows of 256 pixels of an image [H, W, 3], by which passes are cut."""
        return max(1, image.shape[0] * image.shape[1] // _ROW)

    def encode(self, images: Sequence[Tensor]) -> Tensor:
        """What the vision tower takes.

        Args:
            images: B images [H, W, 3] uint8.

        Returns:
            [B, 3, H, W] float32 on the images' device.
        """
        pixels = torch.stack(list(images)).permute(0, 3, 1, 2).contiguous()
        return normalised(pixels, self.mean, self.std, self.rescale)

    def key(self, image: Tensor) -> bytes:
        """A 16-byte digest of an image and its normalisation, the same on every machine.

        It decides the noise of the image's responses: another definition would be other samples.
        """
        numbers = [*image.shape, *self.mean, *self.std, self.rescale]
        digest = hashlib.sha256(repr(numbers).encode())
        digest.update(image.cpu().contiguous().numpy().tobytes())
        return digest.digest()[:16]
