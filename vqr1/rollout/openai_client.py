"""Answers from an OpenAI-compatible server: vLLM, SGLang, `transformers serve`, ...

    with OpenAiClient(config) as server:
        replies = server.answers(images, prompt, samples=6, sampling=sampling, seed=0)

Scoring wires it as a backend (`vqr1.inference.backends.openai`); evaluation may use it in the same
way. Every answer is a request of its own, so that servers without the field `n` work too, and all
requests of a call are under way together, at most `concurrency` of them. The `openai` library
retries what may pass (408, 409, 429, 5xx, time-outs, lost connections) with growing pauses, or the
pause that the server asks for.

Images go out as lossless PNGs, already resized as the model does it; the rest of a request is
in `chat_request.py`. Answers end by our stop rule, whatever the server does.

One bad reply costs one answer, not the run: an image that the server refuses, and replies that are
no chat completion, are withheld by a content filter, or hold no tokens where log-probabilities were
asked for. What ends the run is a server that gives nothing else: at the start, or `STRAY` malformed
replies after each other.

Not here: probabilities of sampled tokens (a server cannot take part in training), and
what an answer means.

Shape legend: B prompts of a call.
"""

from __future__ import annotations

import base64
import io
import json
import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Literal

import openai
from openai import OpenAI
from PIL import Image
from pydantic import ValidationError
from torch import Tensor

from vqr1.config import PromptConfig, SamplingConfig, ServerConfig
from vqr1.errors import ModelError
from vqr1.policy.families import check_served
from vqr1.policy.top_logprobs import ReportedToken
from vqr1.rollout.chat_reply import Choice, Completion, Models
from vqr1.rollout.chat_request import chat_body
from vqr1.rollout.messages import shortened
from vqr1.rollout.sampling import prompt_seed

STRAY = 16
"""Malformed replies after each other that end a run, whatever came before them."""

PAUSE_S = 0.25
"""Between two tries after a reply that is not JSON."""

_REFUSED = (400, 413, 422)
_FAILED = 500
_FILTERED = "content_filter"


@dataclass(frozen=True)
class ServerReply:
    """What a server states of one image.

    Attributes:
        texts: the answers, `samples` of them.
        tokens: of each answer, its tokens with their alternatives; None where not asked for.
        refusal: why the server did not take this image, though it took others; None where it did.
    """

    texts: tuple[str, ...] = ()
    tokens: tuple[tuple[ReportedToken, ...], ...] | None = None
    refusal: str | None = None


class OpenAiClient:
    """A client of one server.

    Args:
        config: address, key, limits.

    Raises:
        ModelError: see `model`.
    """

    def __init__(self, config: ServerConfig) -> None:
        self._config = config
        self._client = OpenAI(
            base_url=config.url,
            # The library insists on a key; servers without one ignore it.
            api_key=os.environ.get(config.api_key_env) or "none",
            timeout=config.timeout_s,
            max_retries=config.retries,
        )
        self._pool = ThreadPoolExecutor(config.concurrency, thread_name_prefix="server")
        if config.model is not None:
            check_served(config.model, f"backend.model={config.model}")
        self._model = config.model
        self._answered = False
        self._gives_logprobs = False
        self._stray = 0

    def __enter__(self) -> OpenAiClient:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Drop what is not under way yet, and the connections."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._client.close()

    def model(self) -> str:
        """Name of the model, asked of the server where the configuration has none.

        Raises:
            ModelError: the server cannot be used, lists no model, or one whose name states that it
                is of another family than images are prepared for.
        """
        if self._model is None:
            try:
                raw = self._client.get("/models", cast_to=str)
            except openai.OpenAIError as error:
                raise self._unusable(error) from error
            try:
                listed = Models.model_validate_json(raw).data
            except ValidationError as error:
                raise self._garbage(raw, "list of models") from error
            if not listed:
                raise ModelError(
                    f"backend.model=null: the server {self._config.url} lists no model; name the "
                    "one that it serves"
                )
            for name in (listed[0].id, listed[0].root):
                if name is not None:
                    check_served(name, f"backend.url={self._config.url}, model {name}")
            self._model = listed[0].id
        return self._model

    def answers(
        self,
        images: Sequence[Sequence[Tensor]],
        prompt: PromptConfig | Sequence[PromptConfig],
        *,
        samples: int,
        sampling: SamplingConfig,
        seed: int,
        logprobs: bool = False,
    ) -> list[ServerReply]:
        """`samples` answers to each of B prompts.

        Args:
            images: of each of B prompts, its resized images [H, W, 3] uint8.
            prompt: what all are asked, or what each of them is; `vision_id` decided.
            samples: answers to each.
            sampling: how one is drawn and where it ends.
            seed: of the draws. With the images and the number of the answer it decides the seed
                that is sent; whether that decides the answer is the server's affair.
            logprobs: ask for the likeliest tokens at each place.

        Raises:
            ModelError: the server cannot be reached, refuses the key or everything it is asked,
                keeps failing or being late, answers nothing that is a chat completion, or gives
                no log-probabilities though asked.
        """
        model = self.model()
        pending = []
        asked = [prompt] * len(images) if isinstance(prompt, PromptConfig) else prompt
        for shown, question in zip(images, asked, strict=True):
            urls = [_data_url(image) for image in shown]
            for k in range(samples):
                body = chat_body(
                    self._config,
                    model,
                    urls,
                    question,
                    sampling=sampling,
                    seed=prompt_seed(seed, shown, k),
                    logprobs=logprobs,
                )
                pending.append(self._pool.submit(self._answer, body))
        try:
            found = [future.result() for future in pending]
        finally:
            for future in pending:
                future.cancel()
        self._check_usable(found)
        if logprobs:
            self._check_logprobs(found)
        return [
            _reply(found[first : first + samples], sampling.end_text, logprobs)
            for first in range(0, len(found), samples)
        ]

    def _answer(self, body: dict[str, Any]) -> Choice | _Failure:
        """One answer, or why there is none that can be used."""
        for left in range(self._config.retries, -1, -1):
            try:
                # As text: the library hands on whatever JSON it gets, and raises on none at all.
                raw = self._client.post("/chat/completions", body=body, cast_to=str)
            except openai.APIStatusError as error:
                return self._failure(error)
            except openai.OpenAIError as error:
                raise self._unusable(error) from error
            try:
                return self._checked(Completion.model_validate_json(raw).choices[0])
            except (ValidationError, IndexError) as error:
                if not _is_json(raw):
                    # A page of something between here and the server, or a torn reply.
                    if not left:
                        raise self._garbage(raw, "chat completion") from error
                    time.sleep(PAUSE_S)
                    continue
                return _Failure(
                    f"the server's answer is no chat completion ({shortened(raw, 80)!r})",
                    self._garbage(raw, "chat completion"),
                    "malformed",
                )
        raise AssertionError("the last try returns or raises")

    def _failure(self, error: openai.APIStatusError) -> _Failure:
        """What an HTTP status means for one image.

        Raises:
            ModelError: it means that the server cannot be used.
        """
        if error.status_code in _REFUSED:
            return _Failure(
                f"the server refuses this image: {_detail(error)}",
                ModelError(
                    f"backend.url={self._config.url}: the server refuses every request; it states: "
                    f"{_detail(error)}"
                ),
                "refused",
            )
        if error.status_code == _FAILED:
            # One image may be too much for a server that answers all others.
            return _Failure(
                f"the server fails at this image: {_detail(error)}",
                self._unusable(error),
                "malformed",
            )
        raise self._unusable(error) from error

    def _checked(self, choice: Choice) -> Choice | _Failure:
        if choice.finish_reason != _FILTERED:
            return choice
        why = "the server's content filter withholds the answer"
        return _Failure(
            why,
            ModelError(f"backend.url={self._config.url}: {why}, of every image asked"),
            "withheld",
        )

    def _check_usable(self, found: Sequence[Choice | _Failure]) -> None:
        """Report a server that cannot be used from one that failed at some images.

        Raises:
            ModelError: it has given nothing else, or nothing else for long.
        """
        for answer in found:
            malformed = isinstance(answer, _Failure) and answer.kind == "malformed"
            self._stray = self._stray + 1 if malformed else 0
            if malformed and self._stray == STRAY:
                assert isinstance(answer, _Failure)
                raise answer.error
        failures = [answer for answer in found if isinstance(answer, _Failure)]
        if len(failures) < len(found):
            self._answered = True
        elif failures and not self._answered:
            raise failures[0].error

    def _check_logprobs(self, found: Sequence[Choice | _Failure]) -> None:
        """Find out that a server gives no log-probabilities, by an answer that has text.

        One empty answer states nothing of the server, nor does one after others that had them.

        Raises:
            ModelError: it gives none.
        """
        choices = [answer for answer in found if isinstance(answer, Choice)]
        if any(choice.tokens() for choice in choices):
            self._gives_logprobs = True
        elif not self._gives_logprobs and any(choice.text() for choice in choices):
            raise ModelError(
                "mode=expected: this server gives no log-probabilities of the answer's digits; use "
                "mode=greedy or mode=sampled"
            )

    def _garbage(self, raw: str, wanted: str) -> ModelError:
        return ModelError(
            f"backend.url={self._config.url}: the server's answer is no {wanted} "
            f"({shortened(raw, 80)!r}); correct the address (it normally ends with /v1)"
        )

    def _unusable(self, error: openai.OpenAIError) -> ModelError:
        """One line for an error that the library did not retry, or retried in vain."""
        config = self._config
        where = f"backend.url={config.url}: "
        tries = f"{config.retries + 1} tries" if config.retries else "the only try"
        if isinstance(error, openai.AuthenticationError | openai.PermissionDeniedError):
            return ModelError(
                f"{where}the server refuses the key (HTTP {error.status_code}: {_detail(error)}); "
                f"put the right one into the environment variable {config.api_key_env}"
            )
        if isinstance(error, openai.NotFoundError):
            return ModelError(
                f"{where}HTTP 404: {_detail(error)}; correct the address (it normally ends with "
                f"/v1) or backend.model={self._model}"
            )
        if isinstance(error, openai.APIStatusError):
            return ModelError(
                f"{where}HTTP {error.status_code} after {tries}: {_detail(error)}; look at the "
                "server's log, or lower backend.concurrency"
            )
        if isinstance(error, openai.APITimeoutError):
            return ModelError(
                f"{where}no answer within backend.timeout_s={config.timeout_s:g} in {tries}; raise "
                "it, or lower backend.concurrency"
            )
        return ModelError(
            f"{where}the server cannot be reached in {tries} ({_reason(error)}); start it, or "
            "correct the address"
        )


@dataclass(frozen=True)
class _Failure:
    """A reply that is no answer.

    Attributes:
        why: in words, where other images have answers.
        error: where no image has.
        kind: `refused`: the server takes this image not at all; `withheld`: not this answer;
            `malformed`: the reply states nothing of the image.
    """

    why: str
    error: ModelError
    kind: Literal["refused", "withheld", "malformed"]


def _reply(
    answers: Sequence[Choice | _Failure], end_text: str | None, logprobs: bool
) -> ServerReply:
    """The answers to one image; where only some are missing, these are empty, which is invalid."""
    failures = [answer for answer in answers if isinstance(answer, _Failure)]
    refused = [failure for failure in failures if failure.kind == "refused"]
    if refused or len(failures) == len(answers):
        return ServerReply(refusal=(refused or failures)[0].why)
    choices = [None if isinstance(answer, _Failure) else answer for answer in answers]
    texts = tuple("" if choice is None else choice.text(end_text) for choice in choices)
    if not logprobs:
        return ServerReply(texts)
    rows = tuple(() if choice is None else choice.tokens(end_text) for choice in choices)
    return ServerReply(texts, rows)


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


def _data_url(pixels: Tensor) -> str:
    file = io.BytesIO()
    Image.fromarray(pixels.cpu().numpy()).save(file, "PNG", compress_level=1)
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


def _detail(error: openai.APIStatusError) -> str:
    """What the server states, without the library's words around it."""
    body = error.body
    if isinstance(body, dict):
        printed = body.get("message") or body.get("detail") or body.get("error") or body
    else:
        printed = body or error.message
    return shortened(printed if isinstance(printed, str) else json.dumps(printed, default=str))


def _reason(error: BaseException) -> str:
    return shortened(str(error.__cause__ or error))
