"""What answers questions about images, wherever the model runs.

A backend knows nothing of scores' means, invalid answers or files, nor of MOS. Backends: `local`
(our engine), `openai` (any OpenAI-compatible server), `vllm` (in this process).

Shape legend: B prompts of a batch, of one or several images each.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from PIL import Image
from torch import Tensor

from vqr1.config import PromptConfig
from vqr1.data.prompts import ResizeRule
from vqr1.inference.request import Reply, Request


class Backend(Protocol):
    """A model that answers questions about images."""

    @property
    def rule(self) -> ResizeRule:
        """How images are resized; safe in any thread."""
        ...

    def resize(self, image: Image.Image) -> Tensor:
        """[H, W, 3] uint8 pixels that the model will see; its reply depends on nothing else.

        Raises:
            DataError: an image too narrow for the model.
        """
        ...

    def prepare(self, request: Request) -> None:
        """Find out now what would make every reply fail.

        Raises:
            ConfigError: a request that this backend cannot answer.
            ModelError: the model or its server cannot be used.
        """
        ...

    def reply(
        self,
        images: Sequence[Tensor | Sequence[Tensor]],
        request: Request,
        prompts: Sequence[PromptConfig] | None = None,
    ) -> list[Reply]:
        """One reply for each of B prompts.

        Args:
            images: of each prompt its resized images [H, W, 3] uint8, `prompt.images` of them; one
                image by itself where a prompt takes one.
            request: what is asked.
            prompts: the B questions, of as many images each, where they differ; None:
                `request.prompt` is asked of all.

        Raises:
            DataError: a prompt takes another number of images.
            ModelError: the model or its server cannot be used at all.
        """
        ...
