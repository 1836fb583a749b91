"""From pictures to tokenised prompts, as the published training made them.

A prompt is the model's chat template around one image and the prompt text (`chat_text`, the one
function that makes it), with "Picture 1: " before the image where `prompt.vision_id` asks for it.
The picture is resized by qwen-vl-utils' rule (both sides multiples of patch size x merge size,
area within `min_pixels` and `max_pixels`, bicubic) and stays an image of bytes. The text is
tokenised once; a prompt of n image tokens repeats the image token n times.

Nothing here pads: sequence lengths differ, and `PromptBatch` keeps them apart. Not here: what a
model makes of an image (`patches.py`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image
from qwen_vl_utils.vision_process import MAX_RATIO, smart_resize
from torch import Tensor

from vqr1.data.patches import FACTOR, PatchEncoding
from vqr1.errors import ConfigError, DataError
from vqr1.records import PromptBatch

QWEN_FACTOR = FACTOR
"""Sides of a Qwen2.5-VL picture are multiples of it."""


@dataclass(frozen=True)
class ResizeRule:
    """What decides the size of a resized picture.

    Attributes:
        factor: both sides are multiples of it (patch size x merge size).
        min_pixels: smallest area.
        max_pixels: largest area.
    """

    factor: int
    min_pixels: int
    max_pixels: int

    def size(self, width: int, height: int) -> tuple[int, int]:
        """Resized (width, height) of a picture.

        Raises:
            DataError: one side is more than 200 times the other.
        """
        if max(width, height) > MAX_RATIO * min(width, height):
            raise DataError(
                f"a picture of {width} x {height} pixels is too narrow: one side may be at most "
                f"{MAX_RATIO} times the other"
            )
        new_height, new_width = smart_resize(
            height, width, self.factor, self.min_pixels, self.max_pixels
        )
        # The published rule rounds the short side of a long picture down to 0 and then fails.
        return max(new_width, self.factor), max(new_height, self.factor)

    def most_tokens(self) -> int:
        """A bound of the image tokens of any picture: the area's, and rounding of both sides.

        Only very narrow pictures come near what it adds to `max_pixels`.
        """
        longest = math.isqrt(MAX_RATIO * self.max_pixels)
        return self.max_pixels // self.factor**2 + 2 * longest // self.factor + 1

    def apply(self, picture: Image.Image) -> Image.Image:
        """The picture in its resized form; bicubic, also where the size stays (a copy)."""
        return picture.resize(self.size(*picture.size), Image.Resampling.BICUBIC)

    def pixels(self, picture: Image.Image) -> Tensor:
        """[H, W, 3] uint8 pixels of a picture after resizing: all that a cache must keep."""
        return torch.from_numpy(np.array(self.apply(picture)))


def resize_rule(processor: Any, min_pixels: int, max_pixels: int) -> ResizeRule:
    """The rule of a model's processor between two area limits.

    Raises:
        ConfigError: the limits contradict each other.
    """
    if min_pixels > max_pixels:
        raise ConfigError(
            [f"model.min_pixels={min_pixels}: must not exceed model.max_pixels={max_pixels}"]
        )
    reader = processor.image_processor
    return ResizeRule(int(reader.patch_size) * int(reader.merge_size), min_pixels, max_pixels)


class PictureSource(Protocol):
    """What a loader needs to make batches of pictures.

    Attributes:
        rule: the resizing rule, which decides what a cache keeps.
    """

    rule: ResizeRule

    def resize(self, picture: Image.Image) -> Tensor:
        """[H, W, 3] uint8 pixels of a picture after resizing."""
        ...

    def from_resized(self, pixels: Sequence[Tensor]) -> PromptBatch:
        """Prompts of B resized pictures [H_b, W_b, 3] uint8."""
        ...

    def with_keys(self, prompts: PromptBatch) -> PromptBatch:
        """The same batch with its images' keys, where whoever takes it asks for them."""
        ...


class PromptBuilder:
    """Builds `PromptBatch` records from RGB pictures.

    Args:
        processor: the model's Qwen2.5-VL processor (image processor, tokenizer, chat template).
        prompt_text: the user's message behind the image.
        min_pixels: smallest area, in pixels, that a picture is resized to.
        max_pixels: largest area.
        vision_id: put "Picture 1: " before the image.

    Attributes:
        rule: the resizing rule.
        encoding: what the model makes of a resized picture.

    Raises:
        ConfigError: the area limits contradict each other, the image processor does not normalise,
            or the template and the prompt text together do not hold exactly one image token.
    """

    def __init__(
        self,
        processor: Any,
        prompt_text: str,
        min_pixels: int,
        max_pixels: int,
        *,
        vision_id: bool,
    ) -> None:
        self.encoding = PatchEncoding.of(processor.image_processor)
        self.rule = resize_rule(processor, min_pixels, max_pixels)
        self.text = chat_text(processor, prompt_text, vision_id)
        self._before, self._after, self._image_token = _split_at_image(processor, self.text)

    def __call__(self, pictures: Sequence[Image.Image]) -> PromptBatch:
        """One prompt for each picture.

        Args:
            pictures: B RGB pictures of any size.

        Raises:
            DataError: a picture is too narrow.
        """
        return self.from_resized([self.resize(picture) for picture in pictures])

    def resize(self, picture: Image.Image) -> Tensor:
        """[H, W, 3] uint8 pixels of a picture after resizing: all that a cache must keep."""
        return self.rule.pixels(picture)

    def from_resized(self, pixels: Sequence[Tensor]) -> PromptBatch:
        """Prompts of resized pictures.

        Args:
            pixels: B tensors [H_b, W_b, 3] uint8, as `resize` gives them.
        """
        ids = tuple(self.token_ids(self.encoding.tokens(image)) for image in pixels)
        return PromptBatch(ids, tuple(pixels))

    def with_keys(self, prompts: PromptBatch) -> PromptBatch:
        """The same batch with its images' keys: a loader's worker has the time to compute them."""
        return replace(prompts, keys=tuple(self.encoding.key(image) for image in prompts.images))

    def token_ids(self, image_tokens: int) -> Tensor:
        """[P] int64 prompt with `image_tokens` image tokens."""
        return torch.tensor(
            self._before + [self._image_token] * image_tokens + self._after, dtype=torch.int64
        )

    def most_tokens(self) -> int:
        """A bound of the length of any prompt."""
        return len(self._before) + self.rule.most_tokens() + len(self._after)


def chat_text(processor: Any, prompt_text: str, vision_id: bool) -> str:
    """The chat template around one image and the prompt text, up to the assistant's turn.

    Args:
        processor: the model's processor; its template is used.
        prompt_text: the user's message after the image.
        vision_id: put "Picture 1: " before the image.
    """
    message = {
        "role": "user",
        "content": [{"type": "image"}, {"type": "text", "text": prompt_text}],
    }
    text: str = processor.apply_chat_template(
        [message], tokenize=False, add_generation_prompt=True, add_vision_id=vision_id
    )
    return text


def _split_at_image(processor: Any, text: str) -> tuple[list[int], list[int], int]:
    """Token ids before and behind the image token, and the image token's own id."""
    ids = list(processor.tokenizer(text, add_special_tokens=False)["input_ids"])
    image_token = int(processor.image_token_id)
    if ids.count(image_token) != 1:
        raise ConfigError(
            [
                f"prompt.text: the chat template gives {ids.count(image_token)} image tokens for "
                f"one image; the text must not hold {processor.image_token} itself"
            ]
        )
    position = ids.index(image_token)
    return ids[:position], ids[position + 1 :], image_token
