"""Prompts of LLaVA's families: image tokens in a row, positions in a row.

Each `<image>` of the chat template becomes as many image tokens as the tower gives rows; text and
image tokens count their positions up by one.

Not here: pixels (`_llava_images.py`).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from vqr1.errors import ConfigError, ModelError


def tokens_of_size(processor: Any, width: int, height: int) -> int:
    """Image tokens that a processor writes for a resized image.

    Args:
        processor: the checkpoint's.
        width: of the resized image.
        height: of the resized image.

    Raises:
        ConfigError: the processor does not belong to the family, or lacks its patch size.
    """
    patch = getattr(processor, "patch_size", None)
    strategy = getattr(processor, "vision_feature_select_strategy", None)
    further = getattr(processor, "num_additional_image_tokens", 0)
    if not patch:
        raise ConfigError(
            [
                f"model.path: its processor, {type(processor).__name__}, states no patch_size, so "
                "that an image's tokens cannot be counted; take the processor_config.json of the "
                "base model"
            ]
        )
    count = (height // patch) * (width // patch) + further - (strategy == "default")
    return int(count)


def check_template(processor: Any) -> None:
    """Check that a processor has a chat template; the first checkpoints of LLaVA have none.

    Raises:
        ConfigError: it has none.
    """
    if getattr(processor, "chat_template", None) is None:
        raise ConfigError(
            [
                f"model.path: its processor, {type(processor).__name__}, has no chat template; "
                "take the chat_template.jinja of the base model"
            ]
        )


def row_positions(input_ids: Tensor, image_token: int, images: int) -> tuple[Tensor, int]:
    """Positions of a prompt: 0, 1, 2, ...

    Args:
        input_ids: [P] tokens.
        image_token: number of the image token.
        images: images of the prompt, all of one size.

    Returns:
        [1, P] positions and the position of the first response token.

    Raises:
        ModelError: the prompt's image tokens are not equally many for each image.
    """
    found = int((input_ids == image_token).sum())
    if found == 0 or found % images:
        raise ModelError(
            f"prompt: found {found} image tokens for {images} images of one size; each needs as "
            "many; use the processor of this model"
        )
    return torch.arange(len(input_ids), device=input_ids.device)[None], len(input_ids)
