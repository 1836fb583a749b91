"""How SmolVLM takes in an image: its size, its tiles, its tokens, and its key.

    longest = tile * floor(sqrt(max_pixels) / tile), and never more than the checkpoint's own
    width x height  ->  longest x ..., rounded up to multiples of `tile`  ->  tiles, row by row

Every image, however small, is resized until its longer side is `longest`; then both sides become
multiples of a tile. What is larger than one tile is cut into tiles, after which the whole image
follows once more, reduced to one tile. Sizes, filters and order are those of the image processor of
transformers, to the bit. Batches carry the resized uint8 image; whoever runs the tower cuts it.

`max_pixels` bounds the area of the resized image. `min_pixels` bounds it below: the narrowest image
has `longest` x `tile` pixels, so that a larger `min_pixels` contradicts `max_pixels`.

Not here: normalisation (`_normalisation.py`), the tower.
"""

from __future__ import annotations

import functools
import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from vqr1.errors import ConfigError
from vqr1.policy.families._normalisation import normalised, numbers_of

TILE, LONGEST, PATCH = 512, 2048, 16
"""Released checkpoints of 256M and 500M: edge of a tile and longest edge of an image in pixels,
edge of a patch."""

LANCZOS = int(Image.Resampling.LANCZOS)

_PROCESSOR_LIMIT = 4096
"""Longest edge that the library's image processor makes of any image."""


@dataclass(frozen=True)
class TileRule:
    """What decides the size of a resized image.

    Attributes:
        tile: edge of a tile.
        longest: longer side of every image before both sides are rounded up to multiples of `tile`.
        split: False squeezes every image into one tile.
        resample: Pillow's number of the filter.
    """

    tile: int
    longest: int
    split: bool = True
    resample: int = LANCZOS

    def _scaled(self, width: int, height: int) -> tuple[int, int]:
        """(width, height) with the longer side at `longest`, the other one even where it shrinks.

        The arithmetic is the processor's, in floating point as there.
        """
        ratio = width / height
        if width >= height:
            other = int(self.longest / ratio)
            return self.longest, max(other + other % 2, 1)
        other = int(self.longest * ratio)
        return max(other + other % 2, 1), self.longest

    def size(self, width: int, height: int) -> tuple[int, int]:
        """Resized (width, height) of an image."""
        if not self.split:
            return self.tile, self.tile
        width, height = self._scaled(width, height)
        ratio = width / height
        if width >= height:
            width = self._up(width)
            return width, self._up(int(width / ratio))
        height = self._up(height)
        return self._up(int(height * ratio)), height

    def _up(self, side: int) -> int:
        return math.ceil(side / self.tile) * self.tile

    @property
    def side(self) -> int:
        """Longer side of every resized image that is cut into tiles."""
        return self._up(self.longest)

    def most_tokens(self, tokens: int) -> int:
        """A bound of the image tokens of any image, with what is written around its tiles.

        Args:
            tokens: of a tile.
        """
        edge = self.side // self.tile if self.split else 1
        if edge == 1:
            return tokens + 3
        return edge**2 * (tokens + 2) + edge + tokens + 4

    def pixels(self, image: Image.Image) -> Tensor:
        """[H, W, 3] uint8 pixels of an image after resizing."""
        tensor = torch.from_numpy(np.array(image)).permute(2, 0, 1)
        for size in (self._scaled(*image.size), self.size(*image.size)):
            tensor = resized(tensor, size, self.resample)
        return tensor.permute(1, 2, 0).contiguous()

    def pillow_size(self, width: int, height: int) -> tuple[int, int] | None:
        """See `ResizeRule`: the library resizes whole images."""
        return None

    def identity(self) -> Mapping[str, int]:
        """What decides the result."""
        return {
            "tile": self.tile,
            "longest": self.longest,
            "split": int(self.split),
            "resample": self.resample,
        }


@functools.cache
def _resizer() -> Any:
    from transformers.image_processing_backends import TorchvisionBackend

    return TorchvisionBackend()


def resized(image: Tensor, size: tuple[int, int], resample: int) -> Tensor:
    """An image [3, H, W] uint8 at another size (width, height), as the library resizes it."""
    from transformers.image_utils import SizeDict

    width, height = size
    if image.shape[1:] == (height, width):
        return image
    target = SizeDict(height=height, width=width)
    result: Tensor = _resizer().resize(image, target, resample=Image.Resampling(resample))
    return result


def _edge(size: Any, name: str) -> int:
    """The longest edge that an image processor's size states.

    Raises:
        ConfigError: it states sides.
    """
    edge = size.get("longest_edge") if isinstance(size, Mapping) else size.longest_edge
    if edge is None:
        raise ConfigError(
            [
                f"model.path: preprocessor_config.json has no longest_edge in {name}; images are "
                "cut into tiles by it; set it as in the released SmolVLM checkpoints"
            ]
        )
    return int(edge)


def tile_rule(image_processor: Any, min_pixels: int, max_pixels: int) -> TileRule:
    """The rule of a checkpoint's image processor; of the released ones where it is None.

    Raises:
        ConfigError: not even one tile fits into `max_pixels`, or `min_pixels` asks for more than
            narrow images have within it.
    """
    tile, own, split, resample = TILE, LONGEST, True, LANCZOS
    if image_processor is not None:
        tile = _edge(image_processor.max_image_size, "max_image_size")
        own = min(_edge(image_processor.size, "size"), _PROCESSOR_LIMIT)
        split = bool(image_processor.do_image_splitting)
        resample = int(image_processor.resample)
    if max_pixels < tile**2:
        raise ConfigError(
            [
                f"model.max_pixels={max_pixels}: a tile of this model has {tile} x {tile} pixels; "
                f"set it to {tile**2} at least"
            ]
        )
    # Below a tile, or between two numbers of them, the checkpoint's own is rounded up afterwards.
    rule = TileRule(tile, min(math.isqrt(max_pixels) // tile * tile, own), split, resample)
    smallest = tile * rule.side if split else tile**2
    if min_pixels > smallest:
        raise ConfigError(
            [
                f"model.min_pixels={min_pixels}: with model.max_pixels={max_pixels} narrow images "
                f"of this model have {smallest} pixels; set it to {smallest} at most"
            ]
        )
    return rule


@dataclass(frozen=True)
class TileEncoding:
    """The numbers of one checkpoint's image processor, and what follows from them.

    Attributes:
        tile: edge of a tile in pixels.
        mean: per channel, of values in [0, 1].
        std: per channel, above 0.
        rescale: factor from a grey level to [0, 1].
        resample: Pillow's number of the filter that reduces the whole image to one tile.
    """

    tile: int = TILE
    mean: tuple[float, ...] = (0.5, 0.5, 0.5)
    std: tuple[float, ...] = (0.5, 0.5, 0.5)
    rescale: float = 1 / 255
    resample: int = LANCZOS

    @staticmethod
    def of(image_processor: Any, title: str) -> TileEncoding:
        """The encoding of a checkpoint's image processor.

        Args:
            image_processor: the checkpoint's.
            title: its family, for the message.

        Raises:
            ConfigError: it leaves grey levels as they are, or states no size of tiles.
        """
        return TileEncoding(
            _edge(image_processor.max_image_size, "max_image_size"),
            *numbers_of(image_processor, title),
            int(image_processor.resample),
        )

    def grid(self, image: Tensor) -> tuple[int, int]:
        """Rows and columns of tiles of an image [H, W, 3]; (0, 0) where it is one tile."""
        rows, columns = image.shape[0] // self.tile, image.shape[1] // self.tile
        return (0, 0) if rows * columns == 1 else (rows, columns)

    def count(self, image: Tensor) -> int:
        """Tiles of an image [H, W, 3], the whole image as the last one included."""
        rows, columns = self.grid(image)
        return rows * columns + 1

    def rows(self, image: Tensor) -> int:
        """Patches of 16 pixels of all tiles of an image [H, W, 3]."""
        return self.count(image) * (self.tile // PATCH) ** 2

    def levels(self, image: Tensor) -> Tensor:
        """The tiles of an image.

        Args:
            image: [H, W, 3] uint8.

        Returns:
            [N, 3, tile, tile] uint8 on the image's device: tiles row by row, then the whole image.
        """
        rows, columns = self.grid(image)
        if not rows:
            return image.permute(2, 0, 1)[None]
        # row, y, column, x, rgb -> row, column, rgb, y, x
        blocks = image.view(rows, self.tile, columns, self.tile, 3).permute(0, 2, 4, 1, 3)
        # Reduced on the host: the filter does not exist elsewhere, and another gives other pixels.
        whole = resized(image.cpu().permute(2, 0, 1), (self.tile, self.tile), self.resample)
        return torch.cat([blocks.flatten(0, 1), whole[None].to(image.device)])

    def encode(self, images: Sequence[Tensor]) -> tuple[Tensor, list[int]]:
        """What the vision tower takes.

        Args:
            images: B images [H_b, W_b, 3] uint8.

        Returns:
            [N, 3, tile, tile] float32 tiles of all images, image after image, and the number of
            tiles of each.
        """
        levels = torch.cat([self.levels(image) for image in images])
        values = normalised(levels, self.mean, self.std, self.rescale)
        return values, [self.count(image) for image in images]

    def key(self, image: Tensor) -> bytes:
        """A 16-byte digest of what decides an image's tiles, the same in every batch."""
        numbers = (tuple(image.shape), self.tile, self.mean, self.std, self.rescale, self.resample)
        digest = hashlib.sha256(repr(numbers).encode())
        digest.update(image.cpu().contiguous().numpy().tobytes())
        return digest.digest()[:16]
