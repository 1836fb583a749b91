"""Test predictions of a run's policies, kept so that a resumed run evaluates each policy once."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vqr1.evaluation.predictions import Predictions
from vqr1.training.checkpoint_files import (
    CheckpointDamagedError,
    CheckpointNotWrittenError,
    read_checkpoint,
    step_name,
    write_checkpoint,
)

logger = logging.getLogger(__name__)

POLICY, AVERAGE = "predictions", "average_predictions"
"""Names of the files: of a policy, and of the average of its weights until then. Runs of earlier
versions have them too."""


def read_predictions(folder: Path, step: int, kind: str = POLICY) -> Predictions | None:
    """The predictions of the policy after `step` optimiser steps; None if not intact."""
    path = folder / step_name(kind, step)
    if not path.exists():
        return None
    try:
        content = read_checkpoint(path)
    except CheckpointDamagedError as error:
        logger.warning("damaged test answers, evaluated again: %s", error)
        return None
    return _from_plain(content)


def write_predictions(
    folder: Path, step: int, predictions: Predictions, kind: str = POLICY
) -> None:
    """Keep the predictions of the policy after `step` optimiser steps."""
    try:
        write_checkpoint(_to_plain(predictions), folder / step_name(kind, step))
    except CheckpointNotWrittenError as error:
        logger.warning("test answers not kept for a resumed run: %s", error)


def _to_plain(predictions: Predictions) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for field in dataclasses.fields(predictions):
        value = getattr(predictions, field.name)
        values[field.name] = torch.from_numpy(value) if isinstance(value, np.ndarray) else value
    return values


def _from_plain(content: dict[str, Any]) -> Predictions:
    values: dict[str, Any] = {
        k: v.numpy() if isinstance(v, torch.Tensor) else v for k, v in content.items()
    }
    return Predictions(**values)
