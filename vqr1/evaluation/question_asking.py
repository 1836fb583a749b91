"""Asking questions about images in batches, of a backend or of a policy in training.

Not here: files of questions (`vqr1.data.questions`), and what answers earn (`question_metrics.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Protocol

from PIL import Image
from torch import Tensor

from vqr1.config import PromptConfig
from vqr1.data.images import load_image
from vqr1.data.questions import Question
from vqr1.errors import DataError
from vqr1.inference.request import Reply, Request


class Asked(Protocol):
    """Who answers: what is needed of `vqr1.inference.backends.Backend`."""

    def resize(self, image: Image.Image) -> Tensor:
        """[H, W, 3] uint8 pixels that the model will see."""
        ...

    def reply(
        self, images: Sequence[Sequence[Tensor]], request: Request, prompts: Sequence[PromptConfig]
    ) -> list[Reply]:
        """One reply for each of B prompts about as many images each."""
        ...


def plan_of(
    questions: Sequence[Question], size: int, numbers: Sequence[int] | None = None
) -> list[list[int]]:
    """Numbers of the questions of each batch: about as many images each, in the file's order.

    Args:
        questions: all of them.
        size: most questions of a batch.
        numbers: those that are asked; None: all.
    """
    asked = range(len(questions)) if numbers is None else numbers
    by_images = sorted(asked, key=lambda n: len(questions[n].images))
    batches = []
    for _, group in groupby(by_images, key=lambda n: len(questions[n].images)):
        members = list(group)
        batches += [members[k : k + size] for k in range(0, len(members), size)]
    return batches


def ask(
    backend: Asked, questions: Sequence[Question], root: Path, prompt: PromptConfig,
    request: Request, short_edge: int | None = None,
) -> list[str | None]:  # fmt: skip
    """The answers to some questions about as many images each.

    Args:
        backend: who answers.
        questions: one batch.
        root: folder of the images.
        prompt: its system message and numbering of images hold for all without one of their own.
        request: how an answer is drawn.
        short_edge: that images are reduced to before the model's own size; None leaves them.

    Returns:
        None where an image could not be read, or the backend refuses it.
    """
    found: list[str | None] = [None] * len(questions)
    readable, images = [], []
    for number, question in enumerate(questions):
        try:
            images.append(_shown(backend, question, root, short_edge))
        except DataError:
            continue
        readable.append(number)
    prompts = [_prompt(prompt, questions[n]) for n in readable]
    replies: Sequence[Reply] = backend.reply(images, request, prompts) if readable else []
    for number, reply in zip(readable, replies, strict=True):
        found[number] = None if reply.error is not None else reply.texts[0]
    return found


def _shown(backend: Asked, question: Question, root: Path, short_edge: int | None) -> list[Tensor]:
    """[H, W, 3] uint8 images of a question, as the model will see them."""
    images = [backend.resize(load_image(root / name, short_edge)) for name in question.images]
    damage = question.damage
    return images if damage is None else [damage.apply(image) for image in images]


def _prompt(prompt: PromptConfig, question: Question) -> PromptConfig:
    system = prompt.system if question.system is None else question.system or None
    return replace(
        prompt, name="question", images=len(question.images), text=question.text, system=system
    )
