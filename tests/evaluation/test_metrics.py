"""The registry: own entries beside the packaged ones, directions, names in logs."""

from __future__ import annotations

import math

import pytest

from tests.evaluation.builders import predictions
from vqr1.config.metrics import MetricConfig
from vqr1.errors import ConfigError
from vqr1.evaluation.metric_options import MetricOptions
from vqr1.evaluation.metrics import (
    FITTED,
    METRICS,
    MetricInputs,
    headline,
    higher_is_better,
    labels,
    logged_metric,
    metrics_of,
    monitored,
    watched,
)
from vqr1.evaluation.predictions import concatenate
from vqr1.evaluation.report import Evaluation, main_table
from vqr1.evaluation.report_values import json_values, metric_values
from vqr1.evaluation.set_metrics import set_metrics
from vqr1.evaluation.summary import summarise
from vqr1.sweeps.results import JobResult
from vqr1.sweeps.summary import best_of


def mean_error(inputs: MetricInputs, power: float = 1.0) -> float:
    return float((abs(inputs.scores - inputs.mos) ** power).mean())


def undefined(_: MetricInputs) -> float:
    return math.nan


def own(**changes: object) -> MetricConfig:
    values: dict[str, object] = {
        "_target_": f"{__name__}.mean_error", "label": "mean error",
        "higher_is_better": False, "averageable": False,
    }  # fmt: skip
    return MetricConfig(**{**values, **changes})  # type: ignore[arg-type]


# Errors 1, 0, 2, 1, 1: mean 1, mean square 7/5.
ROWS = predictions([1.0, 2, 5, 3, 6], [2.0, 2, 3, 4, 5])


def test_a_metric_of_ones_own_by_hand() -> None:
    metrics = metrics_of({"error": own(), "square": own(arguments={"power": 2.0})})
    found = summarise(ROWS, draws=50, metrics=metrics)
    assert list(found.metrics) == ["srcc", "krcc", "plcc", "error", "square"]
    assert found.metrics["error"].value == pytest.approx(1.0)
    assert found.metrics["square"].value == pytest.approx(1.4)
    assert found.metrics["error"].value in found.metrics["error"].interval


def test_it_stands_in_tables_files_and_logs() -> None:
    metrics = metrics_of({"error": own(), "flat": own(label=None, interval=False)})
    options = MetricOptions(draws=50, metrics=metrics)
    evaluation = Evaluation("caption", (set_metrics(ROWS, options),), options)
    table = main_table(evaluation, detailed=True)
    row = dict(zip(table.columns, table.rows[0], strict=True))
    assert row["mean error"].startswith("1.000 [")
    assert row["flat"] == "1.000"
    dataset = evaluation.sets[0].dataset
    assert metric_values(evaluation)[f"eval/{dataset}/error"] == pytest.approx(1.0)
    assert json_values(evaluation)["sets"][dataset]["error"]["value"] == pytest.approx(1.0)
    # Metrics that have a mean over sets come first.
    names = list(evaluation.all_metrics(evaluation.sets[0]))
    assert names == [
        "srcc", "krcc", "plcc", "plcc_logistic4", "plcc_logistic5", "error", "flat",
        "rmse_logistic4", "rmse_logistic5",
    ]  # fmt: skip


def test_a_metric_in_units_of_mos_has_no_mean_over_sets() -> None:
    two = concatenate([ROWS, predictions([1.0, 2, 3, 4, 5], [1.0, 2, 3, 5, 4], dataset="b")])
    found = summarise(two, draws=0, metrics=metrics_of({"error": own()})).metrics
    assert math.isnan(found["error"].value)
    assert found["error"].reason == "mean error has no mean over data sets"
    # Errors 0, 0, 0, 1, 1 in the second set: (1 + .4) / 2.
    meant = metrics_of({"error": own(averageable=True)})
    assert summarise(two, draws=0, metrics=meant).metrics["error"].value == pytest.approx(0.7)


def test_a_metric_that_is_no_number_reports_it() -> None:
    entry = own(_target_=f"{__name__}.undefined")
    found = summarise(ROWS, draws=0, metrics=metrics_of({"gone": entry})).metrics["gone"]
    assert math.isnan(found.value)
    assert found.reason == "gone is not a finite number"
    few = predictions([1.0, 2], [2.0, 1])
    found = summarise(few, draws=0, metrics=metrics_of({"error": own()})).metrics["error"]
    assert found.reason == "2 images, at least 3 are needed"


def test_names_and_directions() -> None:
    metrics = metrics_of({"error": own()})
    assert headline().label == "SRCC"
    assert [metric.name for metric in watched(metrics)] == ["srcc", "plcc", "error"]
    assert monitored(METRICS) == ["val/srcc", "val/plcc", "val/srcc_greedy", "val/plcc_greedy"]
    assert labels(metrics)["error"] == "mean error"
    names = [entry.name for entry in (*metrics, *FITTED)]
    assert len(set(names)) == len(names)
    for logged, name in (
        ("val/srcc_best", "srcc"), ("test/plcc_after", "plcc"), ("val/srcc_greedy/koniq", "srcc"),
        ("eval/koniq/rmse_logistic4", "rmse_logistic4"), ("val/error", "error"),
    ):  # fmt: skip
        found = logged_metric(logged, metrics)
        assert found is not None
        assert found.name == name
    assert logged_metric("train/loss", metrics) is None
    assert higher_is_better("val/srcc")
    assert not higher_is_better("val/error_best", metrics)
    assert best_of("eval/koniq/rmse_logistic5", [0.4, 0.3]) == 0.3
    assert best_of("test/srcc_after", [0.4, 0.3]) == 0.4
    # A job's configuration knows the direction of metrics that are not packaged.
    job = JobResult("a", 0, {}, "FINISHED", falling=frozenset({"error"}))
    assert best_of("test/error_after", [0.4, 0.3], [job]) == 0.3
    assert best_of("test/error_after", [0.4, 0.3]) == 0.4


def test_entries_that_there_cannot_be() -> None:
    with pytest.raises(ConfigError) as raised:
        metrics_of({"srcc": own(), "error": own(_target_="vqr1.gone")})
    first, second = raised.value.problems
    assert first == "metrics.srcc: there is a metric of this name; choose another"
    assert second.startswith("metrics.error._target_=vqr1.gone: no such function")
