"""Responses from a vLLM server whose weights follow the policy's.

Every prompt is one request for its K responses, with its images as lossless PNGs that are already
resized; the server renders the checkpoint's own chat template. The prompt that it states it was
given is compared with the one that the training will compute, token by token.

What a lost server means: where this process trains alone, it waits, connects again, sends the
weights and asks again. Where several train together it stops (`RolloutLostError`): they would all
have to begin the step again, and `resume=` does just that.

Not here: the connection (`vllm_client.py`), what any vLLM is asked (`vllm_requests.py`), and what
the other arithmetic of the server does to the gradient (`vqr1.training.importance_sampling`).
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

import requests
from PIL import Image
from torch import Tensor, nn

from vqr1.config import PromptConfig, RolloutServerConfig, SamplingConfig
from vqr1.errors import ModelError, RolloutLostError
from vqr1.policy.chat_content import chat_content, chat_messages
from vqr1.policy.prompts import adds_special_tokens
from vqr1.policy.unwrap import family_of
from vqr1.policy.vision import VisionFeatures
from vqr1.records import PromptBatch, Rollout
from vqr1.rollout.engine import UnderWay
from vqr1.rollout.vllm_client import RECONNECTIONS, ServerAwayError, VllmLink, at_start, reason_of
from vqr1.rollout.vllm_requests import Answer, VllmRequests, asked_for, seeds_of

logger = logging.getLogger(__name__)

MALFORMED = 3
"""Malformed replies to one image after which the server is taken for another one than vLLM."""

_T = TypeVar("_T")
Agree = Callable[[Callable[[], str | None]], str | None]


class VllmServerEngine:
    """Samples by a server.

    Args:
        model: the policy, bare or with adapters.
        processor: its processor.
        prompt: what is asked, its `vision_id` decided.
        config: address and limits.
        link: the connection; opened here.
        agree: calls its argument in the process that sends the weights, and gives all its value.
        alone: no other process trains.
        processing: arguments with which the server's processor takes images as they are
            (`Family.serving_arguments`), for messages.

    Raises:
        ModelError: no server answers, or it cannot serve this training.
    """

    def __init__(
        self,
        model: nn.Module,
        processor: Any,
        prompt: PromptConfig,
        config: RolloutServerConfig,
        link: VllmLink,
        agree: Agree,
        alone: bool,
        processing: Mapping[str, Any] | None = None,
    ) -> None:
        self._model = model
        self._prompt = prompt
        family, vision_id = family_of(model), bool(prompt.vision_id)
        thinking = prompt.enable_thinking
        self._template = family.template_options(vision_id, thinking)
        content = chat_content(prompt.text, prompt.images)
        text = family.chat_text(processor, content, vision_id, prompt.system, thinking)
        # A chat server adds nothing of the tokenizer's own unless asked.
        added = adds_special_tokens(processor.tokenizer, text)
        self._special = {"add_special_tokens": True} if added else {}
        self._remedy = _remedy(processing or {})
        self._config = config
        self._link = link
        self._agree = agree
        self._alone = alone
        self._requests = VllmRequests.of(
            model, processor, f"rollout.server.url={config.url}: the server"
        )
        with at_start(config.url):
            link.open()

    def with_model(self, model: nn.Module) -> VllmServerEngine:
        """See `RolloutEngine.with_model`."""
        self._model = model
        return self

    def synchronise(self) -> None:
        """Give the server the policy's weights; see `RolloutEngine.synchronise`.

        Raises:
            RolloutLostError: the server does not answer any more.
            ModelError: it refuses the weights.
        """
        # The others receive which server has the weights: it may have been started anew.
        self._link.instance = self._agree(lambda: self._persist(self._send, may_reopen=True))

    def _send(self) -> str | None:
        if self._link.replaced():
            logger.warning("%s: the server has been started anew", self._config.url)
            self._link.open()
        self._link.send_weights(self._model)
        return self._link.instance

    def sample(
        self,
        prompts: PromptBatch,
        *,
        group_size: int,
        sampling: SamplingConfig,
        seed: int,
        vision: VisionFeatures | None = None,
    ) -> Rollout:
        """As `SamplingEngine.sample`, by the server.

        Raises:
            RolloutLostError: the server does not answer any more.
            ModelError: it serves another prompt or another tokenizer, or answers something else
                than responses with log-probabilities.
        """

        def ask_all() -> list[Answer]:
            if self._alone and not self._link.current:
                self._link.send_weights(self._model)
            return self._request(prompts, group_size, sampling, seed)[0]()

        answers = self._persist(ask_all, may_reopen=self._alone)
        return self._requests.rollout(answers, sampling, group_size, prompts.device)

    def begin(
        self, prompts: PromptBatch, *, group_size: int, sampling: SamplingConfig, seed: int
    ) -> UnderWay:
        """As `OverlappingEngine.begin`: a lost server cannot be given the earlier weights again."""
        answers, cancel = self._request(prompts, group_size, sampling, seed)

        def rollout() -> Rollout:
            found = self._persist(answers, may_reopen=False)
            return self._requests.rollout(found, sampling, group_size, prompts.device)

        return UnderWay(rollout, cancel)

    def _request(
        self, prompts: PromptBatch, group_size: int, sampling: SamplingConfig, seed: int
    ) -> tuple[Callable[[], list[Answer]], Callable[[], None]]:
        """Send the requests for B prompts; the first result waits for the answers.

        The second one cancels the requests that are still queued: the process's end would wait for
        them, because the pool's threads are joined there.
        """
        images = prompts.to("cpu").images
        seeds = seeds_of(images, seed)
        count = asked_for(group_size, sampling)
        instance = self._link.instance

        def ask(b: int) -> Answer:
            fields = self._requests.fields(sampling, seeds[b]) | self._special
            return self._ask(images[b], prompts.input_ids[b].tolist(), count, sampling, fields)

        pool = ThreadPoolExecutor(min(len(images), self._config.concurrency))
        asked = [pool.submit(ask, b) for b in range(len(images))]

        def answers() -> list[Answer]:
            found: list[Answer] = []
            refusal: ModelError | None = None
            try:
                found = [one.result() for one in asked]
            except ModelError as error:
                refusal = error
            finally:
                pool.shutdown(cancel_futures=True)
            if self._link.instance != instance or self._link.replaced():
                # Its answers are those of other weights; and it knows no adapters, and refuses.
                raise requests.ConnectionError("it has been started anew")
            if refusal is not None:
                raise refusal
            return found

        return answers, partial(pool.shutdown, wait=False, cancel_futures=True)

    def _ask(
        self,
        images: Sequence[Tensor],
        prompt: Sequence[int],
        count: int,
        sampling: SamplingConfig,
        fields: dict[str, Any],
    ) -> Answer:
        """Responses to one prompt; a malformed reply is asked for again.

        Raises:
            ModelError: every reply is malformed, or the server was given another prompt.
        """
        for left in range(MALFORMED - 1, -1, -1):
            try:
                served, tokens, logprobs = self._chat(images, count, sampling, fields)
                break
            except (ValueError, KeyError, TypeError, IndexError) as error:
                reason = f"{type(error).__name__}: {error}"
                if not left:
                    raise ModelError(
                        f"rollout.server.url={self._config.url}: the server's answer is not that "
                        f"of vLLM ({reason}); versions 0.22 to 0.31 are known"
                    ) from error
                logger.warning("%s: a malformed reply (%s)", self._config.url, reason)
        self._requests.check_prompt(served, prompt, self._remedy)
        return tokens, logprobs

    def _chat(
        self, images: Sequence[Tensor], count: int, sampling: SamplingConfig, fields: dict[str, Any]
    ) -> tuple[list[int], list[list[int]], list[list[float]]]:
        """One request: prompt, responses and log-probabilities of their tokens.

        TRL's client has no argument for the `fields`.
        """
        shown = (Image.fromarray(image.numpy()) for image in images)
        content: list[dict[str, Any]] = [
            {**item, "image": next(shown)} if item["type"] == "image" else item
            for item in chat_content(self._prompt.text, self._prompt.images)
        ]
        reply = self._link.client.chat(
            [chat_messages(content, self._prompt.system)],
            n=count,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            top_k=sampling.top_k,
            max_tokens=sampling.max_new_tokens,
            logprobs=0,
            generation_kwargs=fields,
            chat_template_kwargs=self._template,
        )
        served: list[int] = reply["prompt_ids"][0]
        tokens: list[list[int]] = reply["completion_ids"]
        logprobs = [
            [float(values[ids.index(token)]) for token, ids, values in zip(*row, strict=True)]
            for row in zip(tokens, reply["logprob_token_ids"], reply["logprobs"], strict=True)
        ]
        if not all(tokens) or not all(math.isfinite(value) for row in logprobs for value in row):
            raise ValueError("a response without tokens, or a log-probability that is not finite")
        return served, tokens, logprobs

    def _persist(self, call: Callable[[], _T], may_reopen: bool) -> _T:
        """The call's result, after waiting for a lost server where that may be.

        Raises:
            RolloutLostError: the server stays away, or fails again and again.
        """
        for left in range(RECONNECTIONS if may_reopen else 0, -1, -1):
            try:
                return call()
            except (requests.ReadTimeout, ServerAwayError) as error:
                reason = reason_of(error)
                break
            except requests.RequestException as error:
                reason = reason_of(error)
                if not left:
                    break
            logger.warning("%s: lost the rollout server (%s)", self._config.url, reason)
            try:
                self._link.open()
            except (ServerAwayError, requests.RequestException) as error:
                reason = reason_of(error)
                break
        raise RolloutLostError(
            f"rollout.server.url={self._config.url}: lost the rollout server ({reason}); start it "
            "again"
        )


def _remedy(processing: Mapping[str, Any]) -> str:
    """What to do about a server that builds another prompt."""
    checkpoint = "it must serve the checkpoint of model.path"
    if not processing:
        return checkpoint
    return (
        f"{checkpoint}, and take images as they are: --mm-processor-kwargs "
        f"'{json.dumps(dict(processing))}'"
    )
