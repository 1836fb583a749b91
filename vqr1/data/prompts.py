"""What loaders and caches ask of whoever makes prompts and resizes images.

Not here: who does (`vqr1.policy.prompts`, by the rules of a model family; a server's reader).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from PIL import Image
from torch import Tensor

from vqr1.counted import counted
from vqr1.errors import DataError
from vqr1.records import PromptBatch


class ResizeRule(Protocol):
    """Decides the size of a resized image."""

    def size(self, width: int, height: int) -> tuple[int, int]:
        """Resized (width, height) of an image.

        Raises:
            DataError: the rule does not admit an image of that shape.
        """
        ...

    def pixels(self, image: Image.Image) -> Tensor:
        """[H, W, 3] uint8 pixels of an image after resizing: all that a cache must keep."""
        ...

    def pillow_size(self, width: int, height: int) -> tuple[int, int] | None:
        """(width, height) to which Pillow's bicubic filter makes the image of the same `pixels`.

        None where an image of that shape has to come whole.

        Raises:
            DataError: the rule does not admit an image of that shape.
        """
        ...

    def identity(self) -> Mapping[str, int]:
        """Numbers that decide the result, by name: part of the key of a cached image."""
        ...


class ImageSource(Protocol):
    """What a loader needs to make batches of images.

    Attributes:
        images: images of a prompt, which each row of a data set has to have.
        rule: the resizing rule, which decides what a cache keeps.
        text: the prompt as the template writes it; empty where only a server knows it.
    """

    images: int
    rule: ResizeRule
    text: str

    def resize(self, image: Image.Image) -> Tensor:
        """[H, W, 3] uint8 pixels of an image after resizing."""
        ...

    def from_resized(self, pixels: Sequence[Tensor | Sequence[Tensor]]) -> PromptBatch:
        """B prompts of resized images [H, W, 3] uint8, `images` of each or one by itself."""
        ...

    def with_keys(self, prompts: PromptBatch) -> PromptBatch:
        """The same batch with its images' keys, where whoever takes it asks for them."""
        ...


@dataclass(frozen=True)
class AskedTask:
    """What is asked about images beside their score.

    Attributes:
        name: of the task.
        prompts: makes its prompts, of images that are resized as all others are.
    """

    name: str
    prompts: ImageSource


def image_groups(
    pixels: Sequence[Tensor | Sequence[Tensor]], images: int
) -> tuple[tuple[Tensor, ...], ...]:
    """The images of each of B prompts.

    Args:
        pixels: of each prompt its images [H, W, 3], or one image by itself.
        images: that each prompt takes.

    Raises:
        DataError: a prompt takes another number of images.
    """
    groups = tuple((one,) if isinstance(one, Tensor) else tuple(one) for one in pixels)
    for group in groups:
        if len(group) != images:
            raise DataError(
                f"{counted(len(group), 'image')} for one prompt: prompt.images="
                f"{images} of them are asked about together"
            )
    return groups
