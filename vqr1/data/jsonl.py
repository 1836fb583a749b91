"""The training JSONL of the VisualQuality-R1 release: read as it is, written in the same form.

One object a line:

    {"id": 1, "dataset_name": "KADID-10K", "image": ["I01_01_01.png"], "conversations":
     [{"from": "human", "value": QUESTION}, {"from": "gpt", "value": 4.633587786259543}]}

`image` holds the images that are asked about together, in their order, one in the released file.
Ids count from 1 over the whole file; the value is the MOS scaled min-max to [1, 5] over the whole
set. The question is read but not used: the configured prompt asks.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vqr1.data.labels._reading import text_lines
from vqr1.data.tables import parse_json, parse_number
from vqr1.durable import make_folder, write_file
from vqr1.errors import DataError

QUESTION = (
    "You are doing the image quality assessment task. Here is the question: What is your overall "
    "rating on the quality of this picture? The rating should be a float between 1 and 5, rounded "
    "to two decimal places, with 1 representing very poor quality and 5 representing excellent "
    "quality."
)
"""The question of the released file: the prompt without its last sentence on the answer's form."""


@dataclass(frozen=True, slots=True)
class JsonlLine:
    """One labelled image of a training JSONL, or one tuple of images.

    Attributes:
        dataset_name: the set that the image belongs to.
        image: its path relative to the image folder.
        mos: its score, by the published form in [1, 5].
        where: `file:line`, for error messages.
        images: where the line has several images, all of them, `image` being the last.
    """

    dataset_name: str
    image: str
    mos: float
    where: str = ""
    images: tuple[str, ...] = ()


def read_jsonl(path: Path) -> list[JsonlLine]:
    """All lines of a training JSONL.

    Raises:
        DataError: a line is not of the published form; names file and line.
    """
    return [_parse_line(text, where) for where, text in text_lines(path)]


def jsonl_text(lines: Iterable[JsonlLine], question: str = QUESTION) -> Iterator[str]:
    """The lines of a training JSONL, ids counted from 1, each with its line end."""
    for number, line in enumerate(lines, start=1):
        record = {
            "id": number,
            "dataset_name": line.dataset_name,
            "image": list(line.images) or [line.image],
            "conversations": [
                {"from": "human", "value": question},
                {"from": "gpt", "value": line.mos},
            ],
        }
        yield json.dumps(record) + "\n"


def write_jsonl(path: Path, lines: Iterable[JsonlLine], question: str = QUESTION) -> int:
    """Write a training JSONL and return its number of lines."""
    make_folder(path.parent)
    texts = list(jsonl_text(lines, question))
    write_file(path, "".join(texts))
    return len(texts)


def _parse_line(text: str, where: str) -> JsonlLine:
    record = parse_json(text, where)
    if not isinstance(record, dict):
        raise DataError(f"{where}: expected an object, found {type(record).__name__}")
    name = record.get("dataset_name")
    if not isinstance(name, str) or not name:
        raise DataError(f"{where}: dataset_name={name!r} must be a non-empty text")
    images = _images(record.get("image"), where)
    several = images if len(images) > 1 else ()
    return JsonlLine(name, images[-1], _score(record, where), where, several)


def _images(images: Any, where: str) -> tuple[str, ...]:
    names = [images] if isinstance(images, str) else images
    if isinstance(names, list) and names and all(isinstance(name, str) for name in names):
        return tuple(names)
    raise DataError(f"{where}: image={images!r} must be a list of file names")


def _score(record: dict[str, Any], where: str) -> float:
    turns = record.get("conversations")
    answers = [
        turn.get("value")
        for turn in (turns if isinstance(turns, list) else [])
        if isinstance(turn, dict) and turn.get("from") == "gpt"
    ]
    if len(answers) != 1:
        raise DataError(f"{where}: conversations must hold one turn from 'gpt' with the score")
    value = answers[0]
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise DataError(f"{where}: score {value!r} is not a number")
    score = parse_number(value)
    if score is None:
        raise DataError(f"{where}: score {value!r} is not a number")
    if not math.isfinite(score):
        raise DataError(f"{where}: score {value!r} must be finite")
    return score
