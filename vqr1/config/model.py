"""Keys of the model, of what it is asked, and of how its answers are drawn."""

from __future__ import annotations

import math
from dataclasses import field
from typing import Annotated, Literal

from pydantic import AfterValidator, Field
from pydantic.dataclasses import dataclass

from vqr1.config.types import (
    STRICT_KEYS,
    Fraction,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
)


@dataclass(config=STRICT_KEYS, kw_only=True)
class LoraConfig:
    """Low-rank adapters instead of full weights."""

    rank: PositiveInt = 64
    """Rank of the update matrices."""
    alpha: PositiveFloat = 128.0
    """Scale of the update; the update is multiplied by alpha / rank."""
    dropout: Fraction = 0.0
    """Dropout inside the adapters."""
    target_modules: list[str] = field(
        default_factory=lambda: [
            "q_proj",
            "k_proj",
            "v_proj",
            "o_proj",
            "gate_proj",
            "up_proj",
            "down_proj",
        ]
    )
    """Names of the text model's linear layers that receive an adapter."""


@dataclass(config=STRICT_KEYS, kw_only=True)
class ModelConfig:
    """The vision-language model."""

    name: str
    """Short name for logs and file names."""
    path: str | None
    """Checkpoint folder or hub name; null is the tiny policy that ships with the package."""
    revision: str | None = None
    """Hub revision to pin."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Type of the weights in memory."""
    freeze_vision: bool = False
    """Keep the vision tower (and its merger) as loaded."""
    lora: LoraConfig | None = None
    """Train adapters instead of the weights; null trains all weights that are not frozen."""
    min_pixels: PositiveInt
    """Smallest image area, in pixels, that the processor resizes to."""
    max_pixels: PositiveInt
    """Largest image area, in pixels, that the processor resizes to."""


def _rising(values: tuple[float, float]) -> tuple[float, float]:
    if not all(map(math.isfinite, values)) or values[0] >= values[1]:
        raise ValueError("must be two finite numbers, the lower one first")
    return values


@dataclass(config=STRICT_KEYS, kw_only=True)
class PromptConfig:
    """What the model is asked."""

    name: str
    """Short name for logs and table captions."""
    text: str
    """The user's message that follows the image."""
    answer_format: Literal["think_answer", "answer", "free"]
    """Form that a response must have to be well formed: reasoning and answer, answer alone, or any
    text (descriptions)."""
    score_range: Annotated[tuple[float, float], AfterValidator(_rising)] = (1.0, 5.0)
    """Lowest and highest score that `text` asks for. An answer may lie beyond either end by a
    quarter of the range (0 to 6 for 1 to 5); farther out it is invalid."""


@dataclass(config=STRICT_KEYS, kw_only=True)
class SamplingConfig:
    """How one response is drawn. Nothing is inherited from the model's generation config."""

    temperature: NonNegativeFloat = 1.0
    """Divides the logits; 0 is greedy decoding."""
    top_k: NonNegativeInt = 0
    """Draw among the k likeliest tokens; 0 keeps all."""
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Draw among the likeliest tokens that together have this probability; 1 keeps all."""
    max_new_tokens: PositiveInt = 256
    """Length limit of one response."""
    stop: Literal["answer", "eos"] = "eos"
    """End a response at `</answer>` or the end of the turn, or at the end of the turn only."""


@dataclass(config=STRICT_KEYS, kw_only=True)
class RolloutConfig:
    """Where and how the K responses are sampled."""

    engine: Literal["local"]
    """`local`: this process, prompt and image shared among the K responses (the only engine)."""
    sampling: SamplingConfig
    micro_batch_tokens: PositiveInt = 16384
    """Most key-value entries (prompt and response tokens, all sequences) decoded together; larger
    batches are sampled in turns."""
    cuda_graph: bool = True
    """On a GPU, record a decoding step as a CUDA graph and replay it; no effect elsewhere."""
