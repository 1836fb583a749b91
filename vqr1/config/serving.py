"""Keys of `python score.py serve` (`conf/serve.yaml`)."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from pydantic.dataclasses import dataclass

from vqr1.config.answer import AnyAnswer
from vqr1.config.backend import AnyBackend
from vqr1.config.evaluation import EvalModeConfig
from vqr1.config.machine import HardwareConfig
from vqr1.config.model import ModelConfig, PromptConfig
from vqr1.config.scoring import ComparisonConfig
from vqr1.config.types import (
    STRICT_KEYS,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
)

JSON_COPIES = 3
"""Times that a JSON body is in memory while it is read: as bytes, as text, and decoded."""


@dataclass(config=STRICT_KEYS, kw_only=True)
class LimitsConfig:
    """What the service takes on."""

    max_bytes: PositiveInt
    """Largest body of one request; more is answered 413."""
    max_pixels: Annotated[int, Field(gt=0, le=89_478_485)]
    """Largest image that is decoded, in pixels before resizing; a JPEG of more is decoded at 1/2,
    1/4 or 1/8 of its size, as the answer states (`decoded_at`), any other is answered 422."""
    max_images: PositiveInt
    """Most images in one request; more are answered 422."""
    queue_size: PositiveInt
    """Most images, over all requests, that are accepted and not yet answered; where there are more,
    the client with the most is answered 429 with Retry-After."""
    queue_bytes: PositiveInt
    """Likewise most bytes: bodies as they arrive (thrice in JSON), and images as the model will see
    them."""
    decode_bytes: PositiveInt
    """Most bytes of the images that are being decoded, at 20 a pixel; one alone always is."""
    timeout_s: PositiveFloat
    """Seconds for reading one request's body (408 after that), and again for answering it (503)."""
    decode_threads: PositiveInt
    """Small images decoded at the same time, and as many large ones, at low priority."""
    connections: PositiveInt
    """Most open connections; beyond, the client with the most loses one that waits."""
    head_timeout_s: PositiveFloat
    """Seconds for a request's first line and headers; the connection is closed then."""
    send_timeout_s: PositiveFloat
    """Seconds for which a client may read nothing of its answer; likewise."""


@dataclass(config=STRICT_KEYS, kw_only=True)
class BatchingConfig:
    """How requests share the model."""

    max_batch: PositiveInt
    """Most images computed together; does not change a score."""
    max_wait_ms: NonNegativeFloat
    """Milliseconds that a first image waits for others when the model is idle."""


@dataclass(config=STRICT_KEYS, kw_only=True)
class ServeConfig:
    """`python score.py serve`."""

    model: ModelConfig
    prompt: PromptConfig
    """What `/score` and `/compare` ask."""
    answer: AnyAnswer
    """How the answer to it is written and read."""
    describe: PromptConfig
    """What `/describe` asks."""
    describe_answer: AnyAnswer
    """How the answer to that is written: a form without a score."""
    mode: EvalModeConfig
    """How an answer becomes a score; `greedy` gives no standard deviations, so nothing to compare
    by."""
    backend: AnyBackend
    """Who answers."""
    hardware: HardwareConfig
    host: str
    """Address to listen on."""
    port: Annotated[int, Field(ge=0, le=65535)]
    """Port to listen on; 0 takes a free one."""
    trusted_proxies: list[str]
    """Addresses and networks whose X-Forwarded-For is believed: it states who the client is."""
    api_key_env: str
    """Environment variable that holds the key that clients must send, so that no file or log ever
    does; without it none is asked for."""
    seed: NonNegativeInt
    """Seed of sampled answers."""
    limits: LimitsConfig
    batching: BatchingConfig
    comparison: ComparisonConfig
