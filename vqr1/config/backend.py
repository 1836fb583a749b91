"""Keys of who answers: this process, a server, or vLLM (`conf/backend`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, Discriminator, Field, Tag
from pydantic.dataclasses import dataclass

from vqr1.config.affects import Affects
from vqr1.config.types import STRICT_KEYS, NonNegativeInt, PositiveFloat, PositiveInt

RequestField = Literal[
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "repetition_penalty",
    "presence_penalty",
    "frequency_penalty",
    "seed",
    "n",
    "chat_template_kwargs",
]
"""Fields of a request that decide its prompt and how an answer is drawn; all are always sent."""

_OWN_FIELDS = {*get_args(RequestField), "model", "messages", "max_tokens", "logprobs"} - {
    # A template may have arguments of its own beside ours.
    "chat_template_kwargs"
}


def _no_own_fields(values: dict[str, Any]) -> dict[str, Any]:
    taken = [name for name in values if name in _OWN_FIELDS]
    if taken:
        raise ValueError(
            f"must not hold {', '.join(taken)}: set mode.sampling, seed or backend.model, which "
            "are recorded with the answers"
        )
    return values


@dataclass(config=STRICT_KEYS, kw_only=True)
class LocalBackendConfig:
    """The model in this process."""

    name: Literal["local"]
    """Which backend."""


@dataclass(config=STRICT_KEYS, kw_only=True)
class ServerConfig:
    """An OpenAI-compatible server."""

    name: Literal["openai"]
    """Which backend."""
    url: Annotated[str, Field(pattern=r"^https?://"), Affects.NOTHING]
    """Address up to and including `/v1`."""
    model: str | None = None
    """Name that the server knows the model by; null takes the first that it lists."""
    api_key_env: Annotated[str, Affects.NOTHING] = "OPENAI_API_KEY"
    """Environment variable that holds the key, so that no file or log ever does; may be unset."""
    concurrency: Annotated[PositiveInt, Affects.NOTHING] = 16
    """Requests under way at the same time."""
    timeout_s: Annotated[PositiveFloat, Affects.NOTHING] = 120.0
    """Seconds that one try may take."""
    retries: Annotated[NonNegativeInt, Affects.NOTHING] = 5
    """Further tries after 408, 409, 429 and 5xx, time-outs and lost connections, with growing
    pauses or those that the server asks for (Retry-After)."""
    extra_body: Annotated[dict[str, Any], AfterValidator(_no_own_fields)] = field(
        default_factory=dict
    )
    """Further fields of every request, as the server knows them; none that a key of its own sets
    (temperature, top_p, seed, ...)."""
    unsupported: dict[RequestField, float | None] = field(default_factory=dict)
    """Fields that this server does not take and are not sent, with the value that holds there
    instead; null where it is the server's own and not known. A value asked for that cannot hold is
    refused."""


@dataclass(config=STRICT_KEYS, kw_only=True)
class VllmBackendConfig:
    """vLLM in this process."""

    name: Literal["vllm"]
    """Which backend."""
    gpu_memory_utilization: Annotated[float, Field(gt=0, le=1), Affects.NOTHING] = 0.9
    """Share of the GPU's memory that vLLM takes."""
    max_model_len: Annotated[PositiveInt, Affects.RESULTS] = 8192
    """Longest prompt with its answer, in tokens."""
    tensor_parallel_size: Annotated[PositiveInt, Affects.ROUNDING] = 1
    """GPUs that share the model."""
    enforce_eager: Annotated[bool, Affects.ROUNDING] = False
    """Neither compile nor record the decoding: starts in seconds, answers more slowly."""


def _kind(values: Any) -> str | None:
    mapping = isinstance(values, Mapping)
    name = values.get("name") if mapping else getattr(values, "name", None)
    return f"<{name}>" if name in ("local", "openai", "vllm") else None


AnyBackend = Annotated[
    Annotated[LocalBackendConfig, Tag("<local>")]
    | Annotated[ServerConfig, Tag("<openai>")]
    | Annotated[VllmBackendConfig, Tag("<vllm>")],
    Discriminator(
        _kind,
        custom_error_type="backend_name",
        custom_error_message="its key name must be local, openai or vllm",
    ),
]
"""A backend, distinguished by its name, so that errors speak of one of them."""
