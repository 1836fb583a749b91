"""A prompt as a chat: items of text and images in order, the same for every model and server.

A prompt text may hold the placeholder `<image>` once for each of its images, which marks where they
stand; without any, all images come first. So published prompts read that have it.

Not here: templates (`families/`), and how a server is sent the images (`vqr1.rollout`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from vqr1.config import IMAGE_PLACEHOLDER, MOST_IMAGES, placeholder_problem
from vqr1.errors import ConfigError


def chat_content(text: str, images: int = 1) -> list[dict[str, str]]:
    """Items of the user's message.

    Args:
        text: `prompt.text`.
        images: `prompt.images`, 1 to 4.

    Raises:
        ConfigError: another number of images, or of placeholders in the text.

    >>> chat_content("Which is better?", 2)
    [{'type': 'image'}, {'type': 'image'}, {'type': 'text', 'text': 'Which is better?'}]
    >>> chat_content("First: <image>")
    [{'type': 'text', 'text': 'First: '}, {'type': 'image'}]
    """
    if not 1 <= images <= MOST_IMAGES:
        raise ConfigError([f"prompt.images={images}: must be 1 to {MOST_IMAGES}"])
    problem = placeholder_problem(text, images)
    if problem is not None:
        raise ConfigError([f"prompt.text: {problem}"])
    if IMAGE_PLACEHOLDER not in text:
        text = IMAGE_PLACEHOLDER * images + text
    parts = [part for part in re.split(f"({IMAGE_PLACEHOLDER})", text) if part]
    return [
        {"type": "image"} if part == IMAGE_PLACEHOLDER else {"type": "text", "text": part}
        for part in parts
    ]


def chat_messages(
    content: Sequence[Mapping[str, Any]], system: str | None = None
) -> list[dict[str, Any]]:
    """The messages of a prompt, for a chat template.

    Args:
        content: items of the user's message.
        system: the system message before it; None where there is none.
    """
    messages: list[dict[str, Any]] = [{"role": "user", "content": [dict(item) for item in content]}]
    if system is not None:
        item = {"type": "text", "text": system}
        messages.insert(0, {"role": "system", "content": [item]})
    return messages
