"""Keys of `python score.py` (`conf/score.yaml`)."""

from __future__ import annotations

from typing import Literal

from pydantic.dataclasses import dataclass

from vqr1.config.evaluation import EvalModeConfig
from vqr1.config.machine import HardwareConfig
from vqr1.config.model import ModelConfig, PromptConfig
from vqr1.config.types import STRICT_KEYS, NonNegativeInt, PositiveInt


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
