"""The policy in this process: image and prompt are computed once for all that is asked of them."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import torch
from torch import Tensor

from vqr1.config import ModelConfig, PromptConfig
from vqr1.device import passes_in
from vqr1.inference.backends.prompted import PromptedBackend
from vqr1.inference.policy_replies import policy_replies
from vqr1.inference.request import Reply, Request, with_beginning
from vqr1.policy.loading import Policy
from vqr1.policy.prompts import PromptBuilders
from vqr1.records import joined_prompts
from vqr1.rollout.local import LocalEngine


class LocalBackend(PromptedBackend):
    """Answers with a loaded policy; to one thread after the other, since a pass sets up the model.

    Args:
        policy: model and processor; the model's weights are put out of the gradient.
        model: the sizes that images are resized to.
        precision: `hardware.precision` of the passes.

    Raises:
        ConfigError: image sizes that contradict each other.
    """

    def __init__(self, policy: Policy, model: ModelConfig, precision: str = "32-true") -> None:
        policy.model.eval().requires_grad_(False)
        self._policy = policy
        super().__init__(PromptBuilders(policy.family, policy.processor, model))
        self._engines: dict[int, LocalEngine] = {}
        self._device = next(policy.model.parameters()).device
        self._turn = threading.Lock()
        self._precision = precision

    @torch.no_grad()
    def reply(
        self,
        images: Sequence[Tensor | Sequence[Tensor]],
        request: Request,
        prompts: Sequence[PromptConfig] | None = None,
    ) -> list[Reply]:
        """See `Backend.reply`."""
        if not images:
            return []
        with self._turn, passes_in(self._precision, self._device):
            return self._reply(images, request, prompts)

    def _reply(
        self,
        images: Sequence[Tensor | Sequence[Tensor]],
        request: Request,
        questions: Sequence[PromptConfig] | None,
    ) -> list[Reply]:
        if questions is None:
            builder = self._builders.of(request.prompt)
            prompts = builder.from_resized(images).to(self._device)
            begun = [builder.text] * len(prompts)
        else:
            # Questions are asked once each: their builders are not kept.
            builders = [self._builders.new(question) for question in questions]
            built = [b.from_resized([one]) for b, one in zip(builders, images, strict=True)]
            prompts = joined_prompts(built).to(self._device)
            begun = [builder.text for builder in builders]
        engine = self._engine(request.micro_batch_tokens)
        replies = policy_replies(engine, prompts, request)
        return [
            with_beginning(reply, request.answer, text)
            for reply, text in zip(replies, begun, strict=True)
        ]

    def _engine(self, micro_batch_tokens: int) -> LocalEngine:
        if micro_batch_tokens not in self._engines:
            self._engines[micro_batch_tokens] = LocalEngine(
                self._policy.model, self._policy.processor.tokenizer, micro_batch_tokens
            )
        return self._engines[micro_batch_tokens]
