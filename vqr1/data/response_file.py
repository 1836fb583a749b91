"""Responses to train on, from a JSONL file: what a person or a model answered to images of a set.

One object a line; an image may have several lines:

    {"image": "I01_01_01.png", "response": "<think>...</think><answer>3.40</answer>"}
    {"image": "I01_01_02.png", "response": "...", "weight": 0.5, "dataset": "kadid"}

`image` is the name in the set's labels, `weight` (1 where it is missing) multiplies the response's
loss, and `dataset` is needed in a mixture only. Further keys are not read.

Not here: which of the responses fit an answer form (`vqr1.training.stages.responses`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from vqr1.data.labels._reading import text_lines
from vqr1.data.tables import parse_json
from vqr1.errors import DataError


@dataclass(frozen=True, slots=True)
class ResponseLine:
    """One response.

    Attributes:
        image: name of the image in its set's labels.
        text: the response, as the model shall write it.
        weight: factor of its loss, above 0.
        dataset: name of the set, None where the file does not state one.
        where: `file:line`, for messages.
    """

    image: str
    text: str
    weight: float
    dataset: str | None
    where: str


def read_responses(path: Path) -> list[ResponseLine]:
    """All lines of a file of responses.

    Raises:
        DataError: the file cannot be read, or a line is not of the form above; names file and line.
    """
    lines = [_line(text, where) for where, text in text_lines(path)]
    if not lines:
        raise DataError(f"{path}: no responses in it")
    return lines


def _line(text: str, where: str) -> ResponseLine:
    record = parse_json(text, where)
    if not isinstance(record, dict):
        raise DataError(f"{where}: expected an object, found {type(record).__name__}")
    for key in ("image", "response"):
        if not isinstance(record.get(key), str) or not record[key].strip():
            raise DataError(f"{where}: {key}={record.get(key)!r} must be a non-empty text")
    dataset, weight = record.get("dataset"), record.get("weight", 1.0)
    if dataset is not None and not isinstance(dataset, str):
        raise DataError(f"{where}: dataset={dataset!r} must be the name of a set")
    number = isinstance(weight, int | float) and not isinstance(weight, bool)
    if not number or not math.isfinite(weight) or weight <= 0:
        raise DataError(f"{where}: weight={weight!r} must be a number above 0")
    return ResponseLine(record["image"], record["response"], float(weight), dataset, where)
