"""The responses that a supervised stage trains on, by image: from a file, or written from labels.

A label is written in the answer form: its number with some decimals on the scale that the prompt
asks for, or the word of its level, five equal bins of the range of the set's MOS (Q-Align, arXiv
2312.17090; DeQA-Score, 2501.11561; Q-ReAlign).

Not here: tokens and losses (`response_targets.py`, `soft_levels.py`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from vqr1.data.labelled_set import LabelledSet
from vqr1.data.response_file import ResponseLine, read_responses
from vqr1.errors import ConfigError
from vqr1.iqa.answers import ASKED_RANGE, AnswerForm
from vqr1.iqa.levels import level_number, level_number_upper

Edge = Literal["lower", "upper"]

_SHOWN = 5


@dataclass(frozen=True)
class WeightedText:
    """One response and the factor of its loss."""

    text: str
    weight: float = 1.0


Responses = Mapping[tuple[str, int], Sequence[WeightedText]]
"""By data set and row of its label table."""


def responses_from_labels(
    sets: Mapping[str, LabelledSet], form: AnswerForm, edge: Edge, decimals: int = 2
) -> Responses:
    """Each training image's label, written in the answer form.

    Args:
        sets: the data sets by name.
        form: the answer form.
        edge: level of a MOS between two bins, the `lower` or the `upper` one.
        decimals: of a number; nothing for a form of words.

    Raises:
        ConfigError: the form cannot state a label.
    """
    found = {
        (name, int(row)): [WeightedText(_written(labelled, int(row), form, edge, decimals))]
        for name, labelled in sets.items()
        for row in labelled.rows("train").index
    }
    for (name, row), (response,) in found.items():
        answer = form.parse(response.text)
        if answer.score is None or not answer.format_compliant:
            image = sets[name].table["image"].iat[row]
            raise ConfigError(
                [
                    f"stage.target, answer: {response.text!r}, the label of {image} in {name}, is "
                    "no answer of this form; choose another scale (answer.score_range, "
                    "dataset.mos_scale), another form, or give responses as stage.answers"
                ]
            )
    return found


def level_words(form: AnswerForm) -> list[str]:
    """The form's words from the lowest level to the highest."""
    return sorted(form.levels, key=lambda word: form.levels[word])


def label_level(labelled: LabelledSet, row: int, count: int, edge: Edge) -> int:
    """Number of the level of an image's MOS, 0 the lowest; bins of the whole set's range."""
    mos = labelled.table["mos"].to_numpy(float)
    bins = level_number if edge == "lower" else level_number_upper
    return bins(float(mos[row]), float(mos.min()), float(mos.max()), count)


def _written(labelled: LabelledSet, row: int, form: AnswerForm, edge: Edge, decimals: int) -> str:
    if form.levels:
        words = level_words(form)
        score = words[label_level(labelled, row, len(words), edge)]
    else:
        score = f"{_asked(labelled, row, form):.{decimals}f}"
    text = form.response_of(score)
    assert text is not None, "SftStage.problems refuses such forms"
    return text


def _asked(labelled: LabelledSet, row: int, form: AnswerForm) -> float:
    """An image's MOS on the scale that the prompt asks for."""
    mos = float(labelled.table["mos_scaled"].to_numpy(float)[row])
    if labelled.config.mos_scale == "published":
        return mos
    (low, high), (first, last) = form.score_range, ASKED_RANGE
    return low + (mos - first) / (last - first) * (high - low)


def responses_from_file(path: Path, sets: Mapping[str, LabelledSet], form: AnswerForm) -> Responses:
    """The responses of a file, by training image.

    Args:
        path: the file (`vqr1.data.response_file`).
        sets: the data sets by name.
        form: the answer form; every response has to state a score of it.

    Raises:
        DataError: the file is not of its form.
        ConfigError: an image that no set has, a response without a score, or training images
            without a response; all of them.
    """
    rows = {name: _rows_by_name(labelled) for name, labelled in sets.items()}
    found: dict[tuple[str, int], list[WeightedText]] = {}
    unknown: list[str] = []
    unread: list[str] = []
    for line in read_responses(path):
        name = _set_of(line, sets)
        row = None if name is None else rows[name].get(line.image)
        if name is None or row is None:
            unknown.append(f"{line.where} ({line.image})")
        elif form.parse(line.text).score is None:
            unread.append(line.where)
        else:
            found.setdefault((name, row), []).append(WeightedText(line.text, line.weight))
    problems = [
        f"stage.answers={path}: {len(places)} {words}, such as {', '.join(places[:_SHOWN])}; {fix}"
        for places, words, fix in (
            (unknown, "responses are to images that the data set does not have",
             "correct the names (and `dataset` in a mixture)"),
            (unread, "responses state no score in the answer form", f"{_asked_for(form)}"),
        )
        if places
    ]  # fmt: skip
    problems += [] if problems else _without_response(path, sets, found)
    if problems:
        raise ConfigError(problems)
    return found


def _asked_for(form: AnswerForm) -> str:
    if form.levels:
        return f"its words are {', '.join(form.levels)}"
    return f"its scores are {list(form.score_range)}; correct them, or choose another answer="


def _rows_by_name(labelled: LabelledSet) -> dict[str, int]:
    table = labelled.table
    names = {str(name): row for row, name in enumerate(table["label_name"])}
    return names | {str(name): row for row, name in enumerate(table["image"])}


def _set_of(line: ResponseLine, sets: Iterable[str]) -> str | None:
    names = list(sets)
    if line.dataset is not None:
        return line.dataset if line.dataset in names else None
    return names[0] if len(names) == 1 else None


def _without_response(path: Path, sets: Mapping[str, LabelledSet], found: Responses) -> list[str]:
    problems = []
    for name, labelled in sets.items():
        rows = labelled.rows("train")
        missing = [str(rows["image"][row]) for row in rows.index if (name, int(row)) not in found]
        if missing:
            problems.append(
                f"stage.answers={path}: {len(missing)} of {len(rows)} training images of {name} "
                f"have no response in it, such as {', '.join(missing[:_SHOWN])}; add them, or "
                "remove the images from the set's labels"
            )
    return problems
