"""The policy in this process: image and prompt are computed once for all that is asked of them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from PIL import Image
from torch import Tensor

from vqr1.config import ModelConfig
from vqr1.data.prompts import PromptBuilder, resize_rule
from vqr1.policy.expected_score import MIN_MASS, OPEN_TAG, expected_scores, until_answer
from vqr1.policy.loading import Policy
from vqr1.policy.vision import VisionFeatures, encode_images
from vqr1.records import PromptBatch
from vqr1.rollout.local import LocalEngine
from vqr1.scoring.backends.base import Reply, Request


class LocalBackend:
    """Answers with a loaded policy.

    Args:
        policy: model and processor; the model's weights are put out of the gradient.
        model: the sizes that images are resized to.

    Raises:
        ConfigError: image sizes that contradict each other.
    """

    def __init__(self, policy: Policy, model: ModelConfig) -> None:
        policy.model.eval().requires_grad_(False)
        self._policy = policy
        self._config = model
        self._rule = resize_rule(policy.processor, model.min_pixels, model.max_pixels)
        self._builders: dict[str, PromptBuilder] = {}
        self._engines: dict[int, LocalEngine] = {}
        self._device = next(policy.model.parameters()).device

    def resize(self, picture: Image.Image) -> Tensor:
        """See `Backend.resize`."""
        return self._rule.pixels(picture)

    def prepare(self, request: Request) -> None:
        """Build what the prompt needs; see `Backend.prepare`.

        Raises:
            ConfigError: a prompt text that the processor cannot use.
        """
        self._builder(request.prompt.text)

    @torch.no_grad()
    def reply(self, pixels: Sequence[Tensor], request: Request) -> list[Reply]:
        """See `Backend.reply`."""
        if not pixels:
            return []
        builder = self._builder(request.prompt.text)
        prompts = builder.from_resized(pixels).to(self._device)
        vision = encode_images(self._policy.model, prompts)
        if request.expected:
            return self._expected(prompts, vision, request)
        return [Reply(tuple(texts)) for texts in self._answers(prompts, vision, request)]

    def _builder(self, text: str) -> PromptBuilder:
        if text not in self._builders:
            self._builders[text] = PromptBuilder(
                self._policy.processor, text, self._config.min_pixels, self._config.max_pixels
            )
        return self._builders[text]

    def _answers(
        self, prompts: PromptBatch, vision: VisionFeatures, request: Request
    ) -> list[list[str]]:
        budget = request.micro_batch_tokens
        if budget not in self._engines:
            self._engines[budget] = LocalEngine(
                self._policy.model, self._policy.processor.tokenizer, budget
            )
        return (
            self._engines[budget]
            .sample(
                prompts,
                group_size=request.samples,
                sampling=request.sampling,
                seed=request.seed,
                vision=vision,
            )
            .texts
        )

    def _expected(
        self, prompts: PromptBatch, vision: VisionFeatures, request: Request
    ) -> list[Reply]:
        texts: list[tuple[str, ...]] = [()] * len(prompts)
        beginnings: list[str | None] = [OPEN_TAG] * len(prompts)
        if request.prompt.answer_format == "think_answer":
            texts = [tuple(group) for group in self._answers(prompts, vision, request)]
            beginnings = [until_answer(text) for (text,) in texts]
        # An answer that never begins is still computed, as an empty one, and thrown away: such
        # answers are rare, and the batch stays whole.
        found = expected_scores(
            self._policy.model,
            self._policy.processor.tokenizer,
            prompts,
            [beginning or OPEN_TAG for beginning in beginnings],
            vision=vision,
            micro_batch_tokens=request.micro_batch_tokens,
        )
        numbers = zip(found.score.tolist(), found.std.tolist(), found.mass.tolist(), strict=True)
        return [
            Reply(text, score, std) if beginning is not None and mass >= MIN_MASS else Reply(text)
            for text, beginning, (score, std, mass) in zip(texts, beginnings, numbers, strict=True)
        ]
