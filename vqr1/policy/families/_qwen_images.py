"""How the Qwen-VL families take in an image: its size, its patches, its tokens, and its key.

An image has both sides in multiples of `patch` x `merge` pixels. It is cut into patches of `patch`
x `patch` pixels; a still image fills the `frames` of a patch alike, and patches that the tower
merges into one token lie next to each other. Batches carry the resized uint8 images, an eighth of
the bytes; whoever runs the tower makes the patches, to the bit those of the image processor of
transformers.

Images are resized by qwen-vl-utils' rule: both sides multiples of patch size x merge size, area
within two limits, bicubic.

Not here: normalisation (`_normalisation.py`), rotary positions (`_qwen_positions.py`), the tower.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from qwen_vl_utils.vision_process import smart_resize
from torch import Tensor

from vqr1.data.images import MAX_RATIO, check_ratio
from vqr1.errors import ConfigError
from vqr1.policy.families._normalisation import normalised, numbers_of

PATCH, MERGE, TEMPORAL = 14, 2, 2
"""Edge of a patch in pixels, patches merged along each side, frames in a patch."""

IMAGE_MEAN = (0.48145466, 0.4578275, 0.40821073)
IMAGE_STD = (0.26862954, 0.26130258, 0.27577711)
"""Per-channel normalisation of the released checkpoints (CLIP's), of values in [0, 1]."""


@dataclass(frozen=True)
class AreaRule:
    """What decides the size of a resized image.

    Attributes:
        factor: both sides are multiples of it (patch size x merge size).
        min_pixels: smallest area.
        max_pixels: largest area.
    """

    factor: int
    min_pixels: int
    max_pixels: int

    def size(self, width: int, height: int) -> tuple[int, int]:
        """Resized (width, height) of an image.

        Raises:
            DataError: one side is more than 200 times the other.
        """
        check_ratio(width, height)
        new_height, new_width = smart_resize(
            height, width, self.factor, self.min_pixels, self.max_pixels
        )
        # The published rule rounds the short side of a long image down to 0 and then fails.
        return max(new_width, self.factor), max(new_height, self.factor)

    def most_tokens(self) -> int:
        """A bound of the image tokens of any image: the area's, and rounding of both sides.

        Only very narrow images come near what it adds to `max_pixels`.
        """
        longest = math.isqrt(MAX_RATIO * self.max_pixels)
        return self.max_pixels // self.factor**2 + 2 * longest // self.factor + 1

    def pixels(self, image: Image.Image) -> Tensor:
        """[H, W, 3] uint8 pixels of an image after resizing; bicubic, also where the size stays."""
        resized = image.resize(self.size(*image.size), Image.Resampling.BICUBIC)
        return torch.from_numpy(np.array(resized))

    def pillow_size(self, width: int, height: int) -> tuple[int, int] | None:
        """See `ResizeRule`: the size, unless it has a narrow image resized once more."""
        size = self.size(width, height)
        return size if self.size(*size) == size else None

    def identity(self) -> Mapping[str, int]:
        """What decides the result."""
        return {
            "factor": self.factor,
            "min_pixels": self.min_pixels,
            "max_pixels": self.max_pixels,
        }


def area_rule(
    image_processor: Any, min_pixels: int, max_pixels: int, *, patch: int = PATCH
) -> AreaRule:
    """The rule of a checkpoint's image processor; of the released ones where it is None.

    Args:
        image_processor: the checkpoint's.
        min_pixels: smallest area.
        max_pixels: largest area.
        patch: edge of a patch of the released ones.
    """
    if image_processor is None:
        return AreaRule(patch * MERGE, min_pixels, max_pixels)
    factor = int(image_processor.patch_size) * int(image_processor.merge_size)
    return AreaRule(factor, min_pixels, max_pixels)


_SIZES = ("patch_size", "merge_size", "temporal_patch_size")
"""What an image processor of these families has, and no other."""


@dataclass(frozen=True)
class PatchEncoding:
    """The numbers of one checkpoint's image processor, and what follows from them.

    Attributes:
        patch: edge of a patch in pixels.
        merge: patches that become one token, along each side.
        frames: equal frames of a patch.
        mean: per channel, of values in [0, 1].
        std: per channel, above 0.
        rescale: factor from a grey level to [0, 1].
    """

    patch: int = PATCH
    merge: int = MERGE
    frames: int = TEMPORAL
    mean: tuple[float, ...] = IMAGE_MEAN
    std: tuple[float, ...] = IMAGE_STD
    rescale: float = 1 / 255

    @staticmethod
    def of(image_processor: Any, title: str) -> PatchEncoding:
        """The encoding of a checkpoint's image processor.

        Args:
            image_processor: the checkpoint's.
            title: its family, for the message.

        Raises:
            ConfigError: it makes no patches, or leaves grey levels as they are.
        """
        if not all(hasattr(image_processor, name) for name in _SIZES):
            raise ConfigError(
                [
                    f"model.path: preprocessor_config.json is of a {type(image_processor).__name__}"
                    f", which makes no patches for {title}; copy the processor files of the base "
                    "model into the folder"
                ]
            )
        return PatchEncoding(
            int(image_processor.patch_size),
            int(image_processor.merge_size),
            int(image_processor.temporal_patch_size),
            *numbers_of(image_processor, title),
        )

    def problem(self, vision: Any) -> str | None:
        """Why it does not belong to a tower with this `vision_config`; None where it does."""
        own = (self.patch, self.merge, self.frames)
        tower = (vision.patch_size, vision.spatial_merge_size, vision.temporal_patch_size)
        if own == tower:
            return None
        return (
            f"preprocessor_config.json makes patches of {own} (pixels, merged, frames), the tower "
            f"takes {tower}: the processor of another model"
        )

    def grid(self, image: Tensor) -> tuple[int, int, int]:
        """Frames, patch rows and patch columns of an image [H, W, 3], of which there is 1 frame."""
        return 1, image.shape[0] // self.patch, image.shape[1] // self.patch

    def rows(self, image: Tensor) -> int:
        """Patches of an image [H, W, 3]."""
        _, rows, columns = self.grid(image)
        return rows * columns

    def tokens(self, image: Tensor) -> int:
        """Tokens of an image [H, W, 3] in a prompt."""
        _, rows, columns = self.grid(image)
        return rows * columns // self.merge**2

    def patches(self, image: Tensor) -> Tensor:
        """The patches of an image.

        Args:
            image: [H, W, 3] uint8.

        Returns:
            [H/patch * W/patch, 3 * frames * patch * patch] float32 on the image's device.
        """
        _, rows, columns = self.grid(image)
        size, merge = self.patch, self.merge
        # row, merge y, y, column, merge x, x, rgb -> row, column, merge y, merge x, rgb, y, x
        blocks = image.reshape(rows // merge, merge, size, columns // merge, merge, size, 3)
        blocks = blocks.permute(0, 3, 1, 4, 6, 2, 5).reshape(rows * columns, 3, 1, size * size)
        values = normalised(blocks, self.mean, self.std, self.rescale)
        return values.expand(-1, -1, self.frames, -1).reshape(rows * columns, -1)

    def encode(self, images: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """What the vision tower takes.

        Args:
            images: B images [H_b, W_b, 3] uint8.

        Returns:
            [N, patch_dim] float32 patches of all images, image after image, and [B, 3] int64
            grids on the host: frames, patch rows and patch columns.
        """
        patches = torch.cat([self.patches(image) for image in images])
        return patches, torch.tensor([self.grid(image) for image in images])

    def key(self, image: Tensor) -> bytes:
        """A 16-byte digest of an image's patches, the same in every batch and on every machine.

        It decides the noise of the image's responses: another definition would be other samples.
        """
        digest = hashlib.sha256(repr(list(self.grid(image))).encode())
        digest.update(self.patches(image.cpu()).numpy().tobytes())
        return digest.digest()[:16]
