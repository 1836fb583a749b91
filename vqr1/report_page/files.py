"""Result files of a run, read into the records that its page shows.

Each reader gives nothing where its file is absent, so that a page of an earlier version's run has
what that version wrote.

Shape legend: n images, S answers an image.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from vqr1.data.tables import fields_of_any_length, parse_number
from vqr1.errors import DataError
from vqr1.tracking.logged import logged_metrics

Series = list[tuple[int, float]]
"""(step, value), steps rising."""

TABLES = "tables/tables.json"
"""The tables of a report with titles and notes, written by `vqr1.evaluation.tables.to_json`."""
WORST = "worst"
"""Folder of the worst images: `<set>.json`, written by `vqr1.evaluation.worst_sheet`."""


@dataclass(frozen=True)
class ScoredImage:
    """One image of a predictions file.

    Attributes:
        dataset: its data set.
        image: its name.
        mos: MOS; NaN where the file has none.
        score: by the score rule; NaN where its answers give none.
        text: the answer whose score is nearest to `score`, the first one without a score.
    """

    dataset: str
    image: str
    mos: float
    score: float
    text: str


def read_object(path: Path) -> dict[str, Any]:
    """A JSON file that holds an object; empty where there is no file.

    Raises:
        DataError: it is damaged.
    """
    found = _read_json(path)
    return found if isinstance(found, dict) else {}


def read_list(path: Path) -> list[dict[str, Any]]:
    """A JSON file that holds a list of objects; empty where there is no file.

    Raises:
        DataError: it is damaged.
    """
    found = _read_json(path)
    rows = found if isinstance(found, list) else []
    return [row for row in rows if isinstance(row, dict)]


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: damaged: {error}") from error


def read_config(folder: Path) -> tuple[dict[str, Any], str]:
    """`config.yaml` as plain values, and its text; empty where there is none.

    Raises:
        DataError: it is damaged.
    """
    path = folder / "config.yaml"
    try:
        text = path.read_text(encoding="utf-8")
        values = yaml.safe_load(text)
    except FileNotFoundError:
        return {}, ""
    except (ValueError, yaml.YAMLError) as error:
        raise DataError(f"{path}: damaged: {error}") from error
    return (values if isinstance(values, dict) else {}), text


def read_curves(folder: Path) -> dict[str, Series]:
    """The finite values of each metric that a run logged, by its name.

    Raises:
        DataError: `metrics.csv` is damaged.
    """
    found: dict[str, dict[int, float]] = {}
    for step, values in logged_metrics(folder):
        for name, value in values.items():
            if math.isfinite(value):
                found.setdefault(name, {})[step] = value
    return {name: sorted(series.items()) for name, series in sorted(found.items())}


def read_csv_tables(folder: Path, pattern: str) -> list[tuple[str, list[str], list[list[str]]]]:
    """Name, heads and rows of each CSV table of a folder that is not empty, by name."""
    found = []
    for path in sorted(folder.glob(pattern)):
        with path.open(encoding="utf-8", newline="") as file:
            heads, *rows = list(csv.reader(file)) or [[]]
        if heads:
            found.append((path.stem, heads, rows))
    return found


def read_scored(path: Path, rule: str = "valid_mean", text: str = "text") -> list[ScoredImage]:
    """The images of a predictions file, CSV or Parquet, in its order; empty where there is none.

    Args:
        path: as `vqr1.evaluation.prediction_file` writes it.
        rule: `valid_mean`: an image's score is the mean of its valid answers; `all_valid`: it has
            none unless all are valid.
        text: name of the column of answers.

    Raises:
        DataError: a column is missing.
    """
    if not path.is_file():
        return []
    answers: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for row in _rows(path):
        try:
            answers.setdefault((str(row["dataset"]), str(row["image"])), []).append(row)
        except KeyError as error:
            raise DataError(f"{path}: no column {error}") from error
    return [_scored(key, rows, rule, text) for key, rows in answers.items()]


def _rows(path: Path) -> Iterable[Mapping[str, Any]]:
    if path.suffix == ".parquet":
        import pyarrow.parquet

        yield from pyarrow.parquet.read_table(path).to_pylist()
        return
    with fields_of_any_length(), path.open(encoding="utf-8", newline="") as file:
        yield from csv.DictReader(file)


def _scored(
    key: tuple[str, str], rows: list[Mapping[str, Any]], rule: str, column: str
) -> ScoredImage:
    scores = [_value(row.get("score")) for row in rows]
    valid = [score for score in scores if math.isfinite(score)]
    enough = valid and (rule == "valid_mean" or len(valid) == len(scores))
    score = math.fsum(valid) / len(valid) if enough else math.nan
    nearest = min(
        range(len(rows)),
        key=lambda i: abs(scores[i] - score) if math.isfinite(scores[i] - score) else math.inf,
    )
    text = str(rows[nearest].get(column) or "")
    return ScoredImage(*key, _value(rows[0].get("mos")), score, text)


def _value(found: object) -> float:
    number = parse_number(found)
    return math.nan if number is None else number
