"""What loaders and caches ask of whoever makes prompts and resizes images.

Not here: who does (`vqr1.policy.prompts`, by the rules of a model family; a server's reader).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from PIL import Image
from torch import Tensor

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

    def most_tokens(self) -> int:
        """A bound of the image tokens of any image."""
        ...

    def identity(self) -> Mapping[str, int]:
        """Numbers that decide the result, by name: part of the key of a cached image."""
        ...


class ImageSource(Protocol):
    """What a loader needs to make batches of images.

    Attributes:
        rule: the resizing rule, which decides what a cache keeps.
        text: the prompt as the template writes it; empty where only a server knows it.
    """

    rule: ResizeRule
    text: str

    def resize(self, image: Image.Image) -> Tensor:
        """[H, W, 3] uint8 pixels of an image after resizing."""
        ...

    def from_resized(self, pixels: Sequence[Tensor]) -> PromptBatch:
        """Prompts of B resized images [H_b, W_b, 3] uint8."""
        ...

    def with_keys(self, prompts: PromptBatch) -> PromptBatch:
        """The same batch with its images' keys, where whoever takes it asks for them."""
        ...
