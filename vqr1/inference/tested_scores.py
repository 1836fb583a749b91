"""The scores that a trained model gave the images it was tested on, kept beside its weights.

A score alone means little: models differ in how kind they are. With these, whoever serves the model
can state which share of the test images scored lower. A training with a test writes the record into
its export, `vqr1_tested.json`; a folder without it is of a model about which this is unknown.

Not here: which images the model was trained on (`training_images.csv`).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from vqr1.durable import write_file
from vqr1.errors import DataError
from vqr1.iqa.correlation import FloatArray

FILE = "vqr1_tested.json"
FEWEST = 5
"""Scored test images below which no record is written."""


class TestedScores(BaseModel):
    """Scores of test images."""

    __test__ = False  # not a test case, whatever its name begins with

    model_config = ConfigDict(extra="forbid", frozen=True)

    datasets: list[str] = Field(description="Data sets of the test images.")
    images: int = Field(ge=1, description="Test images with a score.")
    prompt: str = Field(description="Prompt that they were scored with.")
    answers: int = Field(ge=1, description="Answers that each score is the mean of.")
    srcc: float | None = Field(description="Rank correlation of the scores with MOS.")
    quantiles: list[float] = Field(
        min_length=101, max_length=101, description="Scores at 0 %, 1 %, ..., 100 % of the images."
    )


def tested_scores(
    scores: FloatArray, datasets: Sequence[str], prompt: str, answers: int, srcc: float
) -> TestedScores | None:
    """The record of a test; None of fewer than `FEWEST` scored images.

    Args:
        scores: [n] predicted scores, NaN where an image has none.
        datasets: names of the data sets.
        prompt: name of the prompt.
        answers: answers an image.
        srcc: rank correlation with MOS; NaN where undefined.
    """
    finite = scores[np.isfinite(scores)]
    if len(finite) < FEWEST:
        return None
    return TestedScores(
        datasets=list(datasets),
        images=len(finite),
        prompt=prompt,
        answers=answers,
        srcc=float(srcc) if np.isfinite(srcc) else None,
        quantiles=np.round(np.percentile(finite, np.arange(101)), 4).tolist(),
    )


def write_tested_scores(found: TestedScores, folder: Path) -> None:
    """Write the record into the folder of an exported model."""
    write_file(folder / FILE, found.model_dump_json(indent=1) + "\n")


def read_tested_scores(model: str | None, prompt: str) -> TestedScores | None:
    """The record of a model's folder; None where there is none, or it is of another prompt.

    Args:
        model: folder of the model; None, or a name on the hub, has none.
        prompt: name of the prompt that is used now: scores of another one are not comparable.

    Raises:
        DataError: the file is damaged.
    """
    path = None if model is None else Path(model).expanduser() / FILE
    if path is None or not path.is_file():
        return None
    try:
        found = TestedScores.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise DataError(f"{path}: damaged; remove it, or export the model again") from error
    return found if found.prompt == prompt else None
