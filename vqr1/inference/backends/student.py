"""A student in this process: scores from an image encoder, without a language model.

It is chosen where `model.path` is the export of a `stage=distill` run. It writes no text: modes
and prompts that ask for it are refused. The standard deviation of all scores is the student's error
to its teacher's scores.

Not here: the student (`vqr1.student`).
"""

from __future__ import annotations

import threading
from collections.abc import Sequence

import torch
from PIL import Image
from torch import Tensor

from vqr1.config import ModelConfig, PromptConfig
from vqr1.data.prompts import ResizeRule, image_groups
from vqr1.errors import ConfigError
from vqr1.inference.request import Reply, Request
from vqr1.student.folder import load_student


class StudentBackend:
    """Scores with a loaded student; one thread after the other.

    Args:
        model: `path` is the student's folder.
        device: where it goes.

    Raises:
        ModelError: its files do not belong together.
        ConfigError: the library of its encoder is not installed.
    """

    def __init__(self, model: ModelConfig, device: torch.device | str = "cpu") -> None:
        assert model.path is not None
        self._path, self._device = model.path, device
        self._student, self._rule = load_student(model.path, device)
        self._turn = threading.Lock()

    @property
    def rule(self) -> ResizeRule:
        """See `Backend.rule`."""
        return self._rule

    def resize(self, image: Image.Image) -> Tensor:
        """See `Backend.resize`."""
        return self._rule.pixels(image)

    def prepare(self, request: Request) -> None:
        """See `Backend.prepare`.

        Raises:
            ConfigError: the request asks for text, for several images or for another scale.
        """
        who, problems = f"model.path={self._path}: a student", []
        if not request.answer.scored:
            problems.append(f"{who} describes nothing; choose a prompt that asks for a score")
        elif not request.expected or request.levels:
            problems.append(f"{who} gives scores and writes no answers; use mode=expected")
        if request.prompt.images != 1:
            problems.append(
                f"{who} scores one image, the prompt takes {request.prompt.images}; choose another "
                "prompt"
            )
        own, asked = self._student.score_range, tuple(request.answer.score_range)
        if request.answer.scored and asked != own:
            problems.append(
                f"{who} scores from {own[0]:g} to {own[1]:g}, the prompt asks for {asked[0]:g} to "
                f"{asked[1]:g}; choose the prompt of its teacher"
            )
        if problems:
            raise ConfigError(problems)

    @torch.no_grad()
    def reply(
        self,
        images: Sequence[Tensor | Sequence[Tensor]],
        request: Request,
        prompts: Sequence[PromptConfig] | None = None,
    ) -> list[Reply]:
        """See `Backend.reply`; what is asked decides nothing (`prepare`)."""
        if not images:
            return []
        pixels = [image.to(self._device) for (image,) in image_groups(images, 1)]
        with self._turn:
            scores = self._student(pixels).tolist()
        error = float(self._student.error)
        return [Reply(score=score, std=error) for score in scores]
