"""Keys of `python score.py` (`conf/score.yaml`)."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from vqr1.config.evaluation import EvalModeConfig
from vqr1.config.machine import HardwareConfig
from vqr1.config.model import ModelConfig, PromptConfig
from vqr1.config.types import STRICT_KEYS, NonNegativeInt, PositiveFloat, PositiveInt


@dataclass(config=STRICT_KEYS, kw_only=True)
class ComparisonConfig:
    """How images are compared by their scores and standard deviations."""

    std_scale: PositiveFloat = 1.0
    """Multiplies every standard deviation; 1 is the published form of the probability."""
    gamma: PositiveFloat = 1e-6
    """Added to the summed variances of a pair; 1e-6 is the published one."""
    level: Annotated[float, Field(gt=0, lt=1)] = 0.95
    """Share of the drawn ranks that an image's interval of ranks holds."""
    draws: PositiveInt = 1000
    """Draws behind the intervals of ranks."""


@dataclass(config=STRICT_KEYS, kw_only=True)
class ScoreConfig:
    """`python score.py`."""

    model: ModelConfig
    prompt: PromptConfig
    mode: EvalModeConfig
    """A description (`prompt=describe`) is sampled with `mode=sampled` and greedy otherwise."""
    hardware: HardwareConfig
    batch_size: PositiveInt = 16
    """Images computed together; does not change a score."""
    seed: NonNegativeInt = 0
    """Seed of sampled answers."""
    output: str | None = None
    """File for the results, replaced where it exists; null writes to standard output."""
    format: Literal["table", "csv", "jsonl"] | None = None
    """Form of the results; null takes it from the ending of `output`, a table on standard
    output."""
