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
_ASKED = "asked"


def read_predictions(
    folder: Path, step: int, kind: str = POLICY, asked: str | None = None
) -> Predictions | None:
    """The predictions of the policy after `step` optimiser steps.

    Args:
        folder: of the checkpoints.
        step: of the policy.
        kind: name of the file.
        asked: digest of what decided them (`vqr1.training.asked`); None takes them whatever did.

    Returns:
        None where they are not intact, or something else was asked.
    """
    content = read_kept(folder / step_name(kind, step), "test answers")
    if content is None or asked not in (None, content.get(_ASKED)):
        return None
    return _from_plain({name: value for name, value in content.items() if name != _ASKED})


def write_predictions(
    folder: Path, step: int, predictions: Predictions, kind: str = POLICY, asked: str = ""
) -> None:
    """Keep the predictions of the policy after `step` optimiser steps, with what decided them."""
    content = {**_to_plain(predictions), _ASKED: asked}
    write_kept(content, folder / step_name(kind, step), "test answers")


def read_kept(path: Path, what: str) -> Any:
    """The content of a kept file; None where there is none, or (with a warning) it is damaged."""
    if not path.exists():
        return None
    try:
        return read_checkpoint(path)
    except CheckpointDamagedError as error:
        logger.warning("damaged %s, made again: %s", what, error)
        return None


def write_kept(content: dict[str, Any], path: Path, what: str) -> None:
    """Keep plain content for a resumed run; a disk that does not take it is a warning."""
    try:
        write_checkpoint(content, path)
    except CheckpointNotWrittenError as error:
        logger.warning("%s not kept for a resumed run: %s", what, error)


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
