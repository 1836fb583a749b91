"""Further scores of an answer against label columns of their names."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy.stats import pearsonr, spearmanr

from tests.evaluation.builders import predictions
from vqr1.errors import DataError
from vqr1.evaluation.attributes import (
    attribute_metrics,
    attribute_tables,
    attribute_values,
    check_columns,
    tracked_metrics,
)
from vqr1.evaluation.metric_options import MetricOptions
from vqr1.evaluation.metrics import METRICS
from vqr1.evaluation.predictions import Predictions
from vqr1.iqa.answers import JsonAnswer
from vqr1.iqa.answers.after_prompt import ContinuedAnswer

FORM = JsonAnswer(key="rating", scores=("align", "beauty"), words=("kind",))
OPTIONS = MetricOptions((), "valid_mean", "auto", 50, 0.95, 0, METRICS)
N = 12


def scored() -> tuple[Predictions, pd.DataFrame, np.ndarray, np.ndarray]:
    """Answers that state quality and alignment; the last image's states no alignment."""
    rng = np.random.default_rng(0)
    align, columns = rng.uniform(1, 5, (N, 2)).round(2), rng.uniform(0, 9, N)
    texts = tuple(
        tuple(f'{{"rating": 3, "align": {value}, "beauty": 2, "kind": "blur"}}' for value in row)
        for row in align
    )
    texts = (*texts[:-1], ('{"rating": 3, "beauty": 2, "kind": "blur"}',) * 2)
    # The first image has no label of this kind.
    further = [{}, *({"align": float(v), "kind": "a word"} for v in columns[1:])]
    found = replace(predictions(np.full((N, 2), 3.0), np.arange(N)), texts=texts)
    table = pd.DataFrame({"image": found.images, "further": further})
    return found, table, align.mean(axis=1), columns


def test_attributes_are_correlated_with_their_columns() -> None:
    found, table, align, columns = scored()
    # Rows in another order than the table: `index` finds their labels.
    order = np.random.default_rng(1).permutation(N)
    metrics = attribute_metrics(found.rows(order), FORM, {"demo": table}, OPTIONS)
    assert list(metrics) == ["demo"]
    assert list(metrics["demo"]) == ["align"]  # no column for `beauty`
    summary = metrics["demo"]["align"]
    # 12 images less one without a label; of the 11, one answers without it.
    assert (summary.n, summary.n_scored) == (N - 1, N - 2)
    assert summary.invalid_rate == pytest.approx(2 / 22)
    x, y = align[1:-1], columns[1:-1]
    assert summary.metrics["srcc"].value == pytest.approx(spearmanr(x, y).statistic)
    assert summary.metrics["plcc"].value == pytest.approx(pearsonr(x, y).statistic)
    (shown,) = attribute_tables(metrics)
    assert shown.rows[0][:3] == ("demo", "align", "10/11")
    assert attribute_values(metrics)["demo"]["align"]["srcc"] == summary.metrics["srcc"].value
    assert tracked_metrics(metrics)["eval/demo/attributes/align/plcc"] == pytest.approx(
        pearsonr(x, y).statistic
    )


def test_intervals_are_over_what_the_configuration_draws() -> None:
    found, table, *_ = scored()
    found = replace(found, references=tuple(f"I{i // 2}" for i in range(N)))
    intervals = {
        rule: attribute_metrics(found, FORM, {"demo": table}, replace(OPTIONS, resample=rule))[
            "demo"
        ]["align"].metrics["srcc"].interval
        for rule in ("auto", "images", "references")
    }  # fmt: skip
    # Six references are enough for `auto` to draw them.
    assert intervals["auto"] == intervals["references"] != intervals["images"]


def test_nothing_is_shown_without_columns() -> None:
    found, table, *_ = scored()
    bare = table.assign(further=[{}] * N)
    assert attribute_metrics(found, FORM, {"demo": bare}, OPTIONS) == {}
    assert attribute_metrics(found, JsonAnswer(), {"demo": table}, OPTIONS) == {}
    assert attribute_tables({}) == []


def test_a_word_in_a_column_of_scores_is_named() -> None:
    _, table, *_ = scored()
    check_columns(FORM, {"demo": table})  # `kind` is a word of the answer too
    table["further"].iat[3]["align"] = "good"
    message = r"demo: column 'align' holds 'good' for 3\.png, no number"
    with pytest.raises(DataError, match=message):
        check_columns(FORM, {"demo": table})
    with pytest.raises(DataError, match=message):
        check_columns(ContinuedAnswer(FORM, "<think>"), {"demo": table})
