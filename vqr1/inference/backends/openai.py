"""Any OpenAI-compatible server as a backend; the client itself is `vqr1.rollout.openai_client`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from PIL import Image
from torch import Tensor

from vqr1.config import ModelConfig, PromptConfig, ServerConfig
from vqr1.data.prompts import ResizeRule, image_groups
from vqr1.errors import ConfigError
from vqr1.inference.request import Reply, Request
from vqr1.policy.prompts import served_resize_rule
from vqr1.policy.top_logprobs import expected_from_tokens
from vqr1.policy.training_prompt import vision_id_of
from vqr1.rollout.chat_request import unsupported_problems
from vqr1.rollout.openai_client import OpenAiClient, ServerReply


class OpenAiBackend:
    """Answers from a server.

    Args:
        config: address, key, limits.
        model: the sizes that images are resized to before they are sent; those of the served model.

    Raises:
        ConfigError: image sizes that contradict each other, or a model of another family than the
            one that is known on servers.
    """

    def __init__(self, config: ServerConfig, model: ModelConfig) -> None:
        self._rule = served_resize_rule(model)
        self._model = model
        self._config = config
        self._server = OpenAiClient(config)

    @property
    def rule(self) -> ResizeRule:
        """See `Backend.rule`."""
        return self._rule

    def resize(self, image: Image.Image) -> Tensor:
        """See `Backend.resize`."""
        return self._rule.pixels(image)

    def prepare(self, request: Request) -> None:
        """Ask for the name of the model; see `Backend.prepare`.

        Raises:
            ConfigError: a sampling value that cannot hold on this server.
        """
        problems = unsupported_problems(self._config, request.sampling)
        if problems:
            raise ConfigError(problems)
        self._server.model()

    def reply(
        self,
        images: Sequence[Tensor | Sequence[Tensor]],
        request: Request,
        prompts: Sequence[PromptConfig] | None = None,
    ) -> list[Reply]:
        """See `Backend.reply`."""
        asked = [
            replace(prompt, vision_id=vision_id_of(prompt, self._model, hub=False))
            for prompt in prompts or [request.prompt]
        ]
        found = self._server.answers(
            image_groups(images, asked[0].images),
            asked[0] if prompts is None else asked,
            samples=request.samples,
            sampling=request.sampling,
            seed=request.seed,
            logprobs=request.expected,
        )
        return [_read(reply, request) for reply in found]


def _read(reply: ServerReply, request: Request) -> Reply:
    if reply.refusal is not None:
        return Reply(error=reply.refusal)
    if not request.expected or reply.tokens is None:
        return Reply(reply.texts)
    numbers = expected_from_tokens(reply.tokens[0], request.answer)
    return Reply(reply.texts, numbers.score, numbers.std, numbers.lost)
