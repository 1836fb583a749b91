"""Schema of `python score.py`: every key, its type and its range (`conf/score.yaml`).

Shares the groups of `vqr1.config` and `vqr1.config_evaluation`, and their way of checking:
`vqr1.config.validate(ScoreConfig, ...)`.
"""

from __future__ import annotations

from typing import Literal

from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

from vqr1.config import (
    HardwareConfig,
    ModelConfig,
    NonNegativeInt,
    PositiveInt,
    PromptConfig,
)
from vqr1.config_evaluation import EvalModeConfig

_STRICT_KEYS = ConfigDict(extra="forbid")


@dataclass(config=_STRICT_KEYS, kw_only=True)
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
