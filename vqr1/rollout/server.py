"""Answers from an OpenAI-compatible server: vLLM, SGLang, `transformers serve`, ...

    with ChatServer(config) as server:
        replies = server.answers(pixels, question, samples=6, sampling=sampling, seed=0)

Scoring wires it as a backend (`vqr1.scoring.backends.openai`); evaluation may use it in the same
way. Every answer is a request of its own, so that servers without the field `n` work too, and all
requests of a call are under way together, at most `concurrency` of them. The `openai` library
retries what may pass (408, 409, 429, 5xx, time-outs, lost connections) with growing pauses, or the
pause that the server asks for.

The picture goes out as a lossless PNG, already resized as the model does it. The prompt is the
published one: the text "Picture 1: " in front of the image is what the chat template's
`add_vision_id=True` writes, an option that the protocol does not have.

What it leaves out: probabilities of sampled tokens (a server cannot take part in training), and
what an answer means.

Shape legend: B images of a call.
"""

from __future__ import annotations

import base64
import io
import json
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import openai
from openai import OpenAI
from PIL import Image
from pydantic import BaseModel, ValidationError
from torch import Tensor

from vqr1.config import SamplingConfig, ServerConfig
from vqr1.errors import ModelError
from vqr1.policy.top_logprobs import ReportedToken
from vqr1.rollout.messages import shortened
from vqr1.rollout.sampling import picture_seed

VISION_ID = "Picture 1: "
"""What the chat template writes in front of the first image with `add_vision_id=True`."""

TOP_LOGPROBS = 20
"""Alternatives asked for at each token: the most that the protocol allows."""

_REFUSED = (400, 413, 422)


@dataclass(frozen=True)
class ServerReply:
    """What a server says of one image.

    Attributes:
        texts: the answers, `samples` of them.
        tokens: of each answer, its tokens with their alternatives; None where not asked for.
        refusal: why the server did not take this image, though it took others; None where it did.
    """

    texts: tuple[str, ...] = ()
    tokens: tuple[tuple[ReportedToken, ...], ...] | None = None
    refusal: str | None = None


class ChatServer:
    """A client of one server.

    Args:
        config: address, key, limits.
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
        self._model = config.model
        self._answered = False

    def __enter__(self) -> ChatServer:
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
            ModelError: the server cannot be used, or lists no model.
        """
        if self._model is None:
            try:
                raw = self._client.get("/models", cast_to=str)
            except openai.OpenAIError as error:
                raise self._unusable(error) from error
            try:
                listed = _Models.model_validate_json(raw).data
            except ValidationError as error:
                raise self._garbage(raw, "list of models") from error
            if not listed:
                raise ModelError(
                    f"backend.model=null: the server {self._config.url} lists no model; name the "
                    "one that it serves"
                )
            self._model = listed[0].id
        return self._model

    def answers(
        self,
        pixels: Sequence[Tensor],
        question: str,
        *,
        samples: int,
        sampling: SamplingConfig,
        seed: int,
        logprobs: bool = False,
    ) -> list[ServerReply]:
        """`samples` answers to each of B pictures.

        Args:
            pixels: B resized pictures [H, W, 3] uint8.
            question: the text behind the image.
            samples: answers to each.
            sampling: how one is drawn; `stop` is not sent, the model ends its turn itself.
            seed: of the draws. With the picture and the number of the answer it decides the seed
                that is sent; whether that decides the answer is the server's affair.
            logprobs: ask for the likeliest tokens at each place.

        Raises:
            ModelError: the server cannot be reached, refuses the key or everything it is asked,
                keeps failing or being late, answers something that is no chat completion, or gives
                no log-probabilities though asked.
        """
        model = self.model()
        pending = []
        for picture in pixels:
            url = _data_url(picture)
            for k in range(samples):
                body = self._body(model, url, question, sampling, logprobs)
                if sampling.temperature > 0:
                    body["seed"] = picture_seed(seed, picture, k)
                pending.append(self._pool.submit(self._answer, body, logprobs))
        try:
            found = [future.result() for future in pending]
        finally:
            for future in pending:
                future.cancel()
        if found and not self._answered:
            refused = [answer for answer in found if isinstance(answer, str)]
            if len(refused) == len(found):
                raise ModelError(
                    f"backend.url={self._config.url}: the server refuses every request; it says: "
                    f"{refused[0]}"
                )
            self._answered = True
        return [
            _reply(found[first : first + samples], logprobs)
            for first in range(0, len(found), samples)
        ]

    def _body(
        self, model: str, url: str, question: str, sampling: SamplingConfig, logprobs: bool
    ) -> dict[str, Any]:
        content = [
            {"type": "text", "text": VISION_ID},
            {"type": "image_url", "image_url": {"url": url}},
            {"type": "text", "text": question},
        ]
        body: dict[str, Any] = {
            "model": model,
            "messages": [{"role": "user", "content": content}],
            "temperature": sampling.temperature,
            "max_tokens": sampling.max_new_tokens,
        }
        if sampling.temperature > 0:
            body["top_p"] = sampling.top_p
            if sampling.top_k:
                body["top_k"] = sampling.top_k
        if logprobs:
            body |= {"logprobs": True, "top_logprobs": TOP_LOGPROBS}
        return body | self._config.extra_body

    def _answer(self, body: dict[str, Any], logprobs: bool) -> _Choice | str:
        """One answer, or why the server refuses this request."""
        try:
            # As text: the library hands on whatever JSON it gets, and raises on none at all.
            raw = self._client.post("/chat/completions", body=body, cast_to=str)
        except openai.APIStatusError as error:
            if error.status_code in _REFUSED:
                return _detail(error)
            raise self._unusable(error) from error
        except openai.OpenAIError as error:
            raise self._unusable(error) from error
        try:
            choice = _Completion.model_validate_json(raw).choices[0]
        except (ValidationError, IndexError) as error:
            raise self._garbage(raw, "chat completion") from error
        if logprobs and (choice.logprobs is None or not choice.logprobs.content):
            raise ModelError(
                "mode=expected: this server gives no log-probabilities of the answer's digits; use "
                "mode=greedy or mode=sampled"
            )
        return choice

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


class _Model(BaseModel):
    id: str


class _Models(BaseModel):
    data: list[_Model]


class _Alternative(BaseModel):
    token: str
    logprob: float


class _Token(BaseModel):
    token: str
    logprob: float
    top_logprobs: list[_Alternative] = []


class _Logprobs(BaseModel):
    content: list[_Token] | None = None


class _Message(BaseModel):
    content: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None

    def text(self) -> str:
        """The answer as the model wrote it: servers may cut the reasoning out and aside."""
        aside = self.reasoning_content or self.reasoning
        return f"{f'<think>{aside}</think>' if aside else ''}{self.content or ''}"


class _Choice(BaseModel):
    message: _Message
    logprobs: _Logprobs | None = None


class _Completion(BaseModel):
    choices: list[_Choice]


def _reply(answers: Sequence[_Choice | str], logprobs: bool) -> ServerReply:
    for answer in answers:
        if isinstance(answer, str):
            return ServerReply(refusal=f"the server refuses this image: {answer}")
    choices = [answer for answer in answers if isinstance(answer, _Choice)]
    texts = tuple(choice.message.text() for choice in choices)
    if not logprobs:
        return ServerReply(texts)
    return ServerReply(texts, tuple(_tokens(choice) for choice in choices))


def _tokens(choice: _Choice) -> tuple[ReportedToken, ...]:
    content = choice.logprobs.content if choice.logprobs is not None else None
    return tuple(
        ReportedToken(
            token.token,
            {token.token: token.logprob} | {a.token: a.logprob for a in token.top_logprobs},
        )
        for token in content or ()
    )


def _data_url(pixels: Tensor) -> str:
    file = io.BytesIO()
    Image.fromarray(pixels.cpu().numpy()).save(file, "PNG", compress_level=1)
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


def _detail(error: openai.APIStatusError) -> str:
    """What the server says, without the library's words around it."""
    body = error.body
    if isinstance(body, dict):
        said = body.get("message") or body.get("detail") or body.get("error") or body
    else:
        said = body or error.message
    return shortened(said if isinstance(said, str) else json.dumps(said, default=str))


def _reason(error: BaseException) -> str:
    return shortened(str(error.__cause__ or error))
