"""How InternVL takes in an image: tiles of one size, cut by the checkpoint's own image processor.

The processor chooses the grid of tiles whose shape is nearest to the image's, among those of at
most `max_pixels` (and at least `min_pixels`), resizes the image to it, cuts it row by row, and lets
the whole image, resized to one tile, follow where there are several. It is asked to stop before it
changes the type of numbers: a resized image is the stack of its tiles, [N * tile, tile, 3] uint8,
one below the other.

Not here: normalisation (`_normalisation.py`), the tower.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from vqr1.errors import ConfigError
from vqr1.policy.families._normalisation import normalised, numbers_of

TILE, PATCH = 448, 14
"""Edge of a tile and of a patch of the released checkpoints, in pixels."""

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Per-channel normalisation of the released checkpoints (ImageNet's)."""


@functools.cache
def released_processor() -> Any:
    """The image processor of the released checkpoints."""
    from transformers import GotOcr2ImageProcessor

    return GotOcr2ImageProcessor(
        size={"height": TILE, "width": TILE}, image_mean=list(MEAN), image_std=list(STD)
    )


def tile_of(image_processor: Any, title: str) -> int:
    """Edge of an image processor's tiles in pixels.

    Args:
        image_processor: the checkpoint's.
        title: its family, for the message.

    Raises:
        ConfigError: it cuts no square tiles.
    """
    size = getattr(image_processor, "size", None)
    height, width = (getattr(size, side, None) for side in ("height", "width"))
    if not (height and height == width and hasattr(image_processor, "crop_to_patches")):
        raise ConfigError(
            [
                f"model.path: its image processor, {type(image_processor).__name__}, cuts no "
                f"square tiles, as {title} needs; take the preprocessor_config.json of its base"
            ]
        )
    return int(height)


@dataclass(frozen=True)
class StackRule:
    """Cuts images into tiles by an image processor of transformers.

    Attributes:
        image_processor: the checkpoint's.
        tile: edge of a tile.
        least: fewest tiles of a grid.
        most: most tiles of a grid.
    """

    image_processor: Any
    tile: int
    least: int
    most: int

    def count(self, width: int, height: int) -> int:
        """Tiles of an image, the whole image as one more included."""
        options = {"crop_to_patches": True, "min_patches": self.least, "max_patches": self.most}
        found: int = self.image_processor.get_number_of_image_patches(height, width, options)
        return found

    def size(self, width: int, height: int) -> tuple[int, int]:
        """(width, height) of an image's tiles, one below the other."""
        return self.tile, self.tile * self.count(width, height)

    def most_tiles(self) -> int:
        """Tiles of any image at most."""
        return self.most + (self.most > 1)

    def pixels(self, image: Image.Image) -> Tensor:
        """[N * tile, tile, 3] uint8 tiles of an image."""
        # An array, whose order of axes no backend has to guess from an image of few pixels.
        output = self.image_processor(
            np.array(image),
            crop_to_patches=True,
            min_patches=self.least,
            max_patches=self.most,
            do_rescale=False,
            do_normalize=False,
            input_data_format="channels_last",
            return_tensors="pt",
        )
        tiles: Tensor = output["pixel_values"]
        return tiles.permute(0, 2, 3, 1).flatten(0, 1).contiguous()

    def pillow_size(self, width: int, height: int) -> tuple[int, int] | None:
        """See `ResizeRule`: the library resizes whole images."""
        return None

    def identity(self) -> Mapping[str, int]:
        """What decides the result."""
        kind = type(self.image_processor).__name__
        return {
            "tile": self.tile,
            "least": self.least,
            "most": self.most,
            "resample": int(self.image_processor.resample),
            "backend": int.from_bytes(hashlib.sha256(kind.encode()).digest()[:4], "big"),
        }


def stack_rule(image_processor: Any, title: str, min_pixels: int, max_pixels: int) -> StackRule:
    """The rule of an image processor.

    Args:
        image_processor: the checkpoint's.
        title: its family, for the message.
        min_pixels: `model.min_pixels`.
        max_pixels: `model.max_pixels`.

    Raises:
        ConfigError: it cuts no tiles, or the limits admit no number of them.
    """
    tile = tile_of(image_processor, title)
    most = min(int(image_processor.max_patches), max_pixels // tile**2)
    least = max(int(image_processor.min_patches), -(-min_pixels // tile**2))
    if not 1 <= least <= most:
        raise ConfigError(
            [
                f"model.min_pixels={min_pixels}, model.max_pixels={max_pixels}: images of this "
                f"model are cut into tiles of {tile} x {tile} pixels, at most "
                f"{image_processor.max_patches}; the limits must admit a number of them, such as "
                f"{tile**2} and {4 * tile**2}"
            ]
        )
    return StackRule(image_processor, tile, least, most)


@dataclass(frozen=True)
class StackEncoding:
    """The numbers of one checkpoint's image processor.

    Attributes:
        tile: edge of a tile in pixels.
        mean: per channel, of values in [0, 1].
        std: per channel, above 0.
        rescale: factor from a grey level to [0, 1].
    """

    tile: int = TILE
    mean: tuple[float, ...] = MEAN
    std: tuple[float, ...] = STD
    rescale: float = 1 / 255

    @staticmethod
    def of(image_processor: Any, title: str) -> StackEncoding:
        """The encoding of a checkpoint's image processor.

        Args:
            image_processor: the checkpoint's.
            title: its family, for the message.

        Raises:
            ConfigError: it leaves grey levels as they are, or cuts no tiles.
        """
        return StackEncoding(tile_of(image_processor, title), *numbers_of(image_processor, title))

    def count(self, image: Tensor) -> int:
        """Tiles of a stack [N * tile, tile, 3]."""
        return image.shape[0] // self.tile

    def rows(self, image: Tensor) -> int:
        """Patches of 14 pixels of a stack [N * tile, tile, 3]."""
        return self.count(image) * max(1, (self.tile // PATCH) ** 2)

    def encode(self, images: Sequence[Tensor]) -> tuple[Tensor, list[int]]:
        """What the vision tower takes.

        Args:
            images: B stacks [N_b * tile, tile, 3] uint8.

        Returns:
            [N, 3, tile, tile] float32 tiles of all images, image after image, and the number of
            tiles of each.
        """
        tiles = torch.cat([image.unflatten(0, (-1, self.tile)) for image in images])
        levels = tiles.permute(0, 3, 1, 2).contiguous()
        values = normalised(levels, self.mean, self.std, self.rescale)
        return values, [self.count(image) for image in images]

    def key(self, image: Tensor) -> bytes:
        """A 16-byte digest of what decides an image's tiles, the same in every batch."""
        numbers = (tuple(image.shape), self.tile, self.mean, self.std, self.rescale)
        digest = hashlib.sha256(repr(numbers).encode())
        digest.update(image.cpu().contiguous().numpy().tobytes())
        return digest.digest()[:16]
