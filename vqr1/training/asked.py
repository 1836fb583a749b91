"""What decides a policy's answers, as plain values that a kept file of answers is compared by.

A field that a later version adds changes nothing of these values while it has its default, so that
what is kept stays.

Not here: the files (`self_vote.py`, `prediction_cache.py`, `questions.py`,
`stages/teacher_answers.py`).
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any

from vqr1.config import TrainConfig
from vqr1.data.datamodule import RankingDataModule


def what_decides(config: TrainConfig, data: RankingDataModule, **further: Any) -> dict[str, Any]:
    """What decides the answers to the images of a training.

    Args:
        config: of the training.
        data: the opened data sets.
        further: what else does, by name: the weights, how answers are drawn and read.
    """
    return {
        "min_pixels": config.model.min_pixels,
        "max_pixels": config.model.max_pixels,
        "precision": config.hardware.precision,
        "data": data.digests(),
        "seed": config.seed,
        # With the system message, the numbering of images and what the template adds.
        "prompt": data.prompt_text,
        **{name: plain(value) for name, value in further.items()},
    }


def differing(kept: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Names of what decides answers now and was another when they were kept."""
    return [name for name, value in now.items() if name not in kept or kept[name] != value]


def digest(value: Any) -> str:
    """SHA-256 of a value as `plain` has it."""
    return hashlib.sha256(json.dumps(plain(value), sort_keys=True).encode()).hexdigest()


def plain(value: Any) -> Any:
    """A value as JSON holds it.

    Of a record it is the class and the fields that differ from their defaults, of other objects how
    they print themselves.

    >>> from vqr1.config import SamplingConfig
    >>> plain(SamplingConfig(top_k=5))
    {'class': 'SamplingConfig', 'top_k': 5}
    """
    if value is None or isinstance(value, (str, int, float, bool)):
        return value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {"class": type(value).__name__} | {
            field.name: plain(getattr(value, field.name))
            for field in dataclasses.fields(value)
            if getattr(value, field.name) != field.default
        }
    if isinstance(value, Mapping):
        return {str(key): plain(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(one) for one in value]
    # An object without a representation of its own has its place in memory there.
    return re.sub(r" at 0x[0-9a-f]+", "", repr(value))
