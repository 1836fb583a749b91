"""From images to tokenised prompts, as the published training made them.

A prompt is the model's chat template around one to four images and the prompt text (`chat_text` of
the family, the one function that makes it), with images numbered ("Picture 1: ") where
`prompt.vision_id` asks for it. Images are resized by their family's rule and stay images of bytes.
The text is tokenised once; in place of each image token of the template come the tokens that the
family gives an image of that size.

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

from vqr1.config import ModelConfig, PromptConfig
from vqr1.data.prompts import ResizeRule, image_groups
from vqr1.errors import ConfigError
from vqr1.policy.chat_content import chat_content
from vqr1.policy.checkpoint_config import load_family
from vqr1.policy.families import SERVED, Family, served_family
from vqr1.policy.loading import load_processor
from vqr1.policy.training_prompt import vision_id_of
from vqr1.records import PromptBatch, map_once


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


def served_resize_rule(model: ModelConfig) -> ResizeRule:
    """The rule for a model that only a server has; see `resize_rule`.

    Raises:
        ConfigError: the limits contradict each other, or the chosen model is of another family,
            whose images the server would resize again to other pixels.
    """
    kinds = None if model.recommended is None else model.recommended.model_types
    if kinds is not None and SERVED not in kinds:
        raise ConfigError(
            [
                f"model.name={model.name}: a {' or '.join(kinds)} on a server is not "
                f"supported: images are prepared for a {SERVED} there; use backend=local"
            ]
        )
    return resize_rule(served_family(), None, model.min_pixels, model.max_pixels)


class PromptBuilder:
    """Builds `PromptBatch` records from RGB images.

    Args:
        family: the model's.
        processor: the model's (image processor, tokenizer, chat template).
        prompt_text: the user's message (`prompt.text`).
        min_pixels: smallest area, in pixels, that an image is resized to.
        max_pixels: largest area.
        vision_id: number the images ("Picture 1: ").
        images: images of a prompt (`prompt.images`).
        system: the system message; None: what the template writes without one.
        thinking: `prompt.enable_thinking`.

    Attributes:
        images: images of a prompt.
        rule: the resizing rule.
        encoding: what the model makes of a resized image.
        text: the prompt with one image token for each image.
        text_tokens: tokens of a prompt beside the images'.

    Raises:
        ConfigError: the area limits contradict each other, the image processor does not normalise,
            the prompt text has placeholders for another number of images, or the template and the
            text together do not hold exactly one image token for each.
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
        images: int = 1,
        system: str | None = None,
        thinking: bool | None = None,
    ) -> None:
        self.images = images
        self._family = family
        self._processor = processor
        self.encoding = family.image_encoding(processor.image_processor)
        self.rule = resize_rule(family, processor.image_processor, min_pixels, max_pixels)
        content = chat_content(prompt_text, images)
        self.text = family.chat_text(processor, content, vision_id, system, thinking)
        self._segments = _split_at_images(processor, self.text, images)
        self.text_tokens = sum(map(len, self._segments))

    def __call__(self, images: Sequence[Image.Image | Sequence[Image.Image]]) -> PromptBatch:
        """One prompt for each image, or for each sequence of images.

        Args:
            images: of each of B prompts, its RGB images of any size in the prompt's order; one
                image by itself where a prompt takes one.

        Raises:
            DataError: an image is too narrow, or a prompt takes another number of images.
        """
        groups = [[group] if isinstance(group, Image.Image) else group for group in images]
        resized = {id(image): self.resize(image) for group in groups for image in group}
        return self.from_resized([[resized[id(image)] for image in group] for group in groups])

    def resize(self, image: Image.Image) -> Tensor:
        """[H, W, 3] uint8 pixels of an image after resizing: all that a cache must keep."""
        return self.rule.pixels(image)

    def from_resized(self, pixels: Sequence[Tensor | Sequence[Tensor]]) -> PromptBatch:
        """Prompts of resized images.

        Args:
            pixels: of each of B prompts, its images [H, W, 3] uint8, as `resize` gives them; one
                image by itself where a prompt takes one.

        Raises:
            DataError: a prompt takes another number of images.
        """
        groups = image_groups(pixels, self.images)
        return PromptBatch(tuple(self.token_ids(*group) for group in groups), groups)

    def with_keys(self, prompts: PromptBatch) -> PromptBatch:
        """The same batch with its images' keys: a loader's worker has the time to compute them."""
        return replace(prompts, keys=map_once(self.encoding.key, prompts.images))

    def token_ids(self, *images: Tensor) -> Tensor:
        """[P] int64 prompt of resized images [H, W, 3], all that a prompt takes."""
        ids = list(self._segments[0])
        for image, segment in zip(images, self._segments[1:], strict=True):
            ids += self._family.image_ids(self._processor, self.encoding, image)
            ids += segment
        return torch.tensor(ids, dtype=torch.int64)

    def template_ids(self) -> list[int]:
        """The prompt as the template writes it: with one token in the place of each image."""
        token = [int(self._processor.image_token_id)]
        first, *rest = self._segments
        return sum((token + segment for segment in rest), first)

    def most_tokens(self) -> int:
        """A bound of the length of any prompt."""
        most = self._family.most_tokens(self._processor, self.rule)
        return self.text_tokens + self.images * most


def load_prompts(model: ModelConfig, prompt: PromptConfig) -> PromptBuilder:
    """The builder of a checkpoint's prompts; its weights are not loaded.

    Args:
        model: which checkpoint, and the area limits of images.
        prompt: what it is asked.

    Raises:
        ModelError: no such checkpoint, no processor beside it, or one of no known family.
        ConfigError: see `PromptBuilder`.
    """
    # A checkpoint that is not there is reported by what every command needs of it first.
    processor = load_processor(model)
    return prompt_builder(load_family(model), processor, model, prompt)


def prompt_builder(
    family: Family, processor: Any, model: ModelConfig, prompt: PromptConfig
) -> PromptBuilder:
    """The builder of a loaded checkpoint's prompts.

    Args:
        family: the model's.
        processor: the model's.
        model: its area limits of images, and where it was loaded from.
        prompt: what it is asked.

    Raises:
        ConfigError: the prompt asks for what the template cannot; or see `PromptBuilder`.
    """
    check_prompt(family, prompt)
    return PromptBuilder(
        family,
        processor,
        prompt.text,
        model.min_pixels,
        model.max_pixels,
        vision_id=vision_id_of(prompt, model),
        images=prompt.images,
        system=prompt.system,
        thinking=prompt.enable_thinking,
    )


def check_prompt(family: Family, prompt: PromptConfig) -> None:
    """Whether a model's chat template can do what a prompt asks of it.

    Raises:
        ConfigError: it cannot number images, or open and close a block of reasoning.
    """
    problems = []
    if prompt.vision_id and not family.image_label:
        problems.append(
            f"prompt.vision_id=true: the chat template of {family.title} cannot number images; "
            "set prompt.vision_id=false"
        )
    if prompt.enable_thinking is not None and not family.thinking_chosen:
        problems.append(
            f"prompt.enable_thinking={str(prompt.enable_thinking).lower()}: the chat template of "
            f"{family.title} writes no block of reasoning; set prompt.enable_thinking=null"
        )
    if problems:
        raise ConfigError(problems)


class PromptBuilders:
    """The builders of one loaded checkpoint's prompts, each made when its prompt is asked first.

    Args:
        family: the model's.
        processor: the model's.
        model: its area limits of images, and where it was loaded from.

    Attributes:
        rule: the resizing rule, which no prompt changes.

    Raises:
        ConfigError: the area limits contradict each other.
    """

    def __init__(self, family: Family, processor: Any, model: ModelConfig) -> None:
        reader = processor.image_processor
        self.rule = resize_rule(family, reader, model.min_pixels, model.max_pixels)
        self._family, self._processor, self._model = family, processor, model
        self._made: dict[tuple[object, ...], PromptBuilder] = {}

    def of(self, prompt: PromptConfig) -> PromptBuilder:
        """The builder of a prompt.

        Raises:
            ConfigError: see `prompt_builder`.
        """
        key = (
            prompt.text, prompt.images, prompt.system, prompt.vision_id, prompt.enable_thinking
        )  # fmt: skip
        if key not in self._made:
            self._made[key] = self.new(prompt)
        return self._made[key]

    def new(self, prompt: PromptConfig) -> PromptBuilder:
        """A builder that is not kept, of a prompt that is asked once; errors as those of `of`."""
        return prompt_builder(self._family, self._processor, self._model, prompt)


def adds_special_tokens(tokenizer: Any, text: str) -> bool:
    """The `add_special_tokens` with which a model's own processor tokenises a template's text.

    Most tokenizers add nothing. One that does, such as Llama's, adds a beginning, which the
    template may have written already.

    Args:
        tokenizer: the processor's.
        text: the prompt as the template writes it.

    Returns:
        Whether the tokenizer adds something that the text lacks.
    """
    begin = tokenizer.bos_token
    if begin is not None and text.startswith(begin):
        return False
    return bool(tokenizer("", add_special_tokens=True)["input_ids"])


def _split_at_images(processor: Any, text: str, images: int) -> list[list[int]]:
    """Token ids before, between and after the template's image tokens, one for each image."""
    special = adds_special_tokens(processor.tokenizer, text)
    ids = list(processor.tokenizer(text, add_special_tokens=special)["input_ids"])
    image_token = int(processor.image_token_id)
    if ids.count(image_token) != images:
        raise ConfigError(
            [
                f"prompt.text: the chat template gives {ids.count(image_token)} image tokens for "
                f"prompt.images={images}; the text must not hold {processor.image_token} itself"
            ]
        )
    segments: list[list[int]] = [[]]
    for token in ids:
        if token == image_token:
            segments.append([])
        else:
            segments[-1].append(token)
    return segments
