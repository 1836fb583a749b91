"""From images to tokenised prompts, as the published training made them.

A prompt is the model's chat template around one image and the prompt text (`chat_text`, the one
function that makes it), with the image numbered ("Picture 1: ") where `prompt.vision_id` asks for
it. The image is resized by its family's rule and stays an image of bytes. The text is tokenised
once; in place of the template's one image token come the tokens that the family gives an image of
that size.

Nothing here pads: sequence lengths differ, and `PromptBatch` keeps them apart. Not here: what a
family makes of images and templates (`families/`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from vqr1.config import ModelConfig
from vqr1.data.prompts import ResizeRule
from vqr1.errors import ConfigError
from vqr1.policy.checkpoint_config import load_family
from vqr1.policy.families import Family, served_family
from vqr1.policy.loading import load_processor
from vqr1.records import PromptBatch


def resize_rule(
    family: Family, image_processor: Any, min_pixels: int, max_pixels: int
) -> ResizeRule:
    """How a model's images are resized between two area limits.

    Args:
        family: the model's.
        image_processor: the model's; None takes the numbers of the family's released checkpoints.
        min_pixels: smallest area.
        max_pixels: largest area.

    Raises:
        ConfigError: the limits contradict each other.
    """
    if min_pixels > max_pixels:
        raise ConfigError(
            [f"model.min_pixels={min_pixels}: must not exceed model.max_pixels={max_pixels}"]
        )
    return family.resize_rule(image_processor, min_pixels, max_pixels)


def served_resize_rule(min_pixels: int, max_pixels: int) -> ResizeRule:
    """The rule for a model that only a server has; see `resize_rule`."""
    return resize_rule(served_family(), None, min_pixels, max_pixels)


class PromptBuilder:
    """Builds `PromptBatch` records from RGB images.

    Args:
        family: the model's.
        processor: the model's (image processor, tokenizer, chat template).
        prompt_text: the user's message after the image.
        min_pixels: smallest area, in pixels, that an image is resized to.
        max_pixels: largest area.
        vision_id: put "Picture 1: " before the image.

    Attributes:
        rule: the resizing rule.
        encoding: what the model makes of a resized image.
        text: the prompt with one image token.
        text_tokens: tokens of a prompt beside the image's.

    Raises:
        ConfigError: the area limits contradict each other, the image processor does not normalise,
            or the template and the prompt text together do not hold exactly one image token.
    """

    def __init__(
        self,
        family: Family,
        processor: Any,
        prompt_text: str,
        min_pixels: int,
        max_pixels: int,
        *,
        vision_id: bool,
    ) -> None:
        self._family = family
        self._processor = processor
        self.encoding = family.image_encoding(processor.image_processor)
        self.rule = resize_rule(family, processor.image_processor, min_pixels, max_pixels)
        self.text = family.chat_text(processor, prompt_text, vision_id)
        self._before, self._after = _split_at_image(processor, self.text)
        self.text_tokens = len(self._before) + len(self._after)

    def __call__(self, images: Sequence[Image.Image]) -> PromptBatch:
        """One prompt for each image.

        Args:
            images: B RGB images of any size.

        Raises:
            DataError: an image is too narrow.
        """
        return self.from_resized([self.resize(image) for image in images])

    def resize(self, image: Image.Image) -> Tensor:
        """[H, W, 3] uint8 pixels of an image after resizing: all that a cache must keep."""
        return self.rule.pixels(image)

    def from_resized(self, pixels: Sequence[Tensor]) -> PromptBatch:
        """Prompts of resized images.

        Args:
            pixels: B tensors [H_b, W_b, 3] uint8, as `resize` gives them.
        """
        return PromptBatch(tuple(self.token_ids(image) for image in pixels), tuple(pixels))

    def with_keys(self, prompts: PromptBatch) -> PromptBatch:
        """The same batch with its images' keys: a loader's worker has the time to compute them."""
        return replace(prompts, keys=tuple(self.encoding.key(image) for image in prompts.images))

    def token_ids(self, image: Tensor) -> Tensor:
        """[P] int64 prompt of a resized image [H, W, 3]."""
        own = self._family.image_ids(self._processor, self.encoding, image)
        return torch.tensor(self._before + own + self._after, dtype=torch.int64)

    def template_ids(self) -> list[int]:
        """The prompt as the template writes it: with one token in the image's place."""
        return [*self._before, int(self._processor.image_token_id), *self._after]

    def most_tokens(self) -> int:
        """A bound of the length of any prompt."""
        return self.text_tokens + self.rule.most_tokens()


def load_prompts(config: ModelConfig, prompt_text: str, *, vision_id: bool) -> PromptBuilder:
    """The builder of a checkpoint's prompts; its weights are not loaded.

    Args:
        config: which checkpoint, and the area limits of images.
        prompt_text: the user's message after the image.
        vision_id: put "Picture 1: " before the image.

    Raises:
        ModelError: no such checkpoint, no processor beside it, or one of no known family.
        ConfigError: see `PromptBuilder`.
    """
    # A checkpoint that is not there is reported by what every command needs of it first.
    processor = load_processor(config)
    return PromptBuilder(
        load_family(config),
        processor,
        prompt_text,
        config.min_pixels,
        config.max_pixels,
        vision_id=vision_id,
    )


def _split_at_image(processor: Any, text: str) -> tuple[list[int], list[int]]:
    """Token ids before and after the template's image token."""
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
    return ids[:position], ids[position + 1 :]
