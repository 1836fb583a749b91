"""Further scores of an answer against label columns of their names, beside the ranked score.

An answer form may ask for several scores at once (`answer.scores` of JSON: quality, authenticity,
alignment), labels may state several (`dataset.score`, `dataset.columns.further`). A score with the
name of a column is evaluated; the others are only read. Rows whose answers state no such score are
excluded and counted, and so are rows without a value in the column.

Not here: attributes in rewards (`vqr1.rewards`), and how answers are read (`vqr1.iqa.answers`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from vqr1.errors import DataError
from vqr1.evaluation.metric_options import MetricOptions
from vqr1.evaluation.predictions import Predictions
from vqr1.evaluation.report import with_interval
from vqr1.evaluation.report_values import finite
from vqr1.evaluation.summary import Summary, summarise
from vqr1.evaluation.tables import Table
from vqr1.iqa.answers import AnswerForm

Found = Mapping[str, Mapping[str, Summary]]
"""By set and attribute, its metrics."""


def check_columns(form: AnswerForm, tables: Mapping[str, pd.DataFrame]) -> None:
    """Check that columns of the names of an answer's further scores hold numbers.

    Args:
        form: how answers are written.
        tables: the sets' label tables, by name.

    Raises:
        DataError: a word; names set, column and row.
    """
    for name, table in tables.items():
        for column in form.ratings:
            column_numbers(table, column, name)


def column_numbers(table: pd.DataFrame, column: str, name: str) -> np.ndarray:
    """[rows] float64 of a further label column; NaN where a row has none.

    Args:
        table: the set's label table.
        column: the column.
        name: of the set, for error messages.

    Raises:
        DataError: a word.
    """
    values = [(row or {}).get(column, math.nan) for row in table["further"]]
    for image, value in zip(table["image"], values, strict=True):
        if isinstance(value, str):
            raise DataError(
                f"{name}: column {column!r} holds {value!r} for {image}, no number; the answer "
                "states a score of this name: correct the label, or rename one of the two"
            )
    return np.array(values, dtype=np.float64)


def attribute_metrics(
    predictions: Predictions,
    form: AnswerForm,
    tables: Mapping[str, pd.DataFrame],
    options: MetricOptions,
) -> Found:
    """Metrics of each further score that a set has a column for.

    Args:
        predictions: of all sets, with the texts of the answers.
        form: how these are written.
        tables: the sets' label tables, by name; rows as `Predictions.index` has them.
        options: how metrics are computed.
    """
    found: dict[str, dict[str, Summary]] = {}
    for name, part in predictions.by_dataset().items():
        if name not in tables or "further" not in tables[name]:
            continue
        for column in form.ratings:
            labels = column_numbers(tables[name], column, name)[part.index]
            known = np.isfinite(labels)
            if known.any():
                found.setdefault(name, {})[column] = summarise(
                    _scores_of(replace(part, mos=labels), form, column).rows(known),
                    rule=options.rule, resample=options.resample, draws=options.draws,
                    seed=options.seed, level=options.level,
                )  # fmt: skip
    return found


def attribute_tables(found: Found) -> list[Table]:
    """One row a set and attribute; no table without any."""
    rows = [
        (
            name,
            attribute,
            f"{summary.n_scored}/{summary.n}",
            *(with_interval(summary.metrics[metric]) for metric in ("srcc", "plcc")),
            f"{summary.invalid_rate:.1%}",
        )
        for name, attributes in found.items()
        for attribute, summary in attributes.items()
    ]
    if not rows:
        return []
    columns = ("set", "attribute", "scored", "SRCC", "PLCC", "invalid")
    notes = ("Each against the label column of its name; scored: rows with both.",)
    return [Table("Further scores of the answers", columns, tuple(rows), "attributes", notes)]


def attribute_values(found: Found) -> dict[str, Any]:
    """For `summary.json`, by set and attribute."""
    return {
        name: {
            attribute: {
                **{metric: finite(m.value) for metric, m in summary.metrics.items()},
                "images": summary.n,
                "scored": summary.n_scored,
                "invalid_rate": finite(summary.invalid_rate),
                "reasons": summary.reasons,
            }
            for attribute, summary in attributes.items()
        }
        for name, attributes in found.items()
    }


def tracked_metrics(found: Found) -> dict[str, float]:
    """By tracking name, `eval/<set>/attributes/<name>/srcc`; those that exist."""
    return {
        f"eval/{name}/attributes/{attribute}/{metric}": measured.value
        for name, attributes in found.items()
        for attribute, summary in attributes.items()
        for metric, measured in summary.metrics.items()
        if math.isfinite(measured.value)
    }


def _scores_of(part: Predictions, form: AnswerForm, attribute: str) -> Predictions:
    """The predictions with the scores that the texts state of an attribute."""
    stated = [
        [form.parse(text).attributes.get(attribute) for text in texts] for texts in part.texts
    ]
    scores = np.array(
        [[one if isinstance(one, float) else math.nan for one in row] for row in stated],
        dtype=np.float64,
    ).reshape(len(part), -1)
    return replace(part, scores=scores, valid=np.isfinite(scores))
