"""Every number of a report states what it is over, what is missing, and why."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from tests.evaluation.builders import predictions
from vqr1.config import ReportConfig
from vqr1.evaluation.compare import EvaluatedRun, compare_runs
from vqr1.evaluation.compare_report import comparison_tables, comparison_values
from vqr1.evaluation.metric_options import MetricOptions
from vqr1.evaluation.predictions import Predictions
from vqr1.evaluation.report import (
    Evaluation,
    calibration_tables,
    distortion_tables,
    main_table,
)
from vqr1.evaluation.report_values import json_values, metric_values, summary_values
from vqr1.evaluation.report_writer import write_outcome
from vqr1.evaluation.set_metrics import set_metrics
from vqr1.evaluation.summary import paired_gain, set_seed, summarise
from vqr1.evaluation.tables import Table, to_latex, to_markdown, to_rich
from vqr1.iqa.bootstrap import bootstrap_draws
from vqr1.iqa.correlation import srcc
from vqr1.tracking import RunLog

NONE = MetricOptions(curves=(), draws=0)


def evaluation(options: MetricOptions, *parts: Predictions) -> Evaluation:
    return Evaluation("model, mode", tuple(set_metrics(p, options) for p in parts), options)


def printed(table: Table) -> str:
    console = Console(file=io.StringIO(), width=400)
    console.print(to_rich(table))
    text: str = console.file.getvalue()  # type: ignore[attr-defined]
    return text


def of_24_references() -> Predictions:
    """Three images a reference; answers constant within 19 of the 24."""
    orders = [[1, 2, 3], [1, 3, 2], [3, 2, 1], [1, 2, 3], [2, 1, 3]]
    scores = [*orders, *([[2, 2, 2]] * 19)]
    return predictions(
        np.ravel(scores),
        [1, 2, 3] * 24,
        dataset="sriqa",
        references=[f"I{i:02d}" for i in range(24) for _ in range(3)],
    )


def test_a_mean_per_reference_states_the_references_it_lacks(tmp_path: Path) -> None:
    rows = of_24_references()
    found = evaluation(NONE, rows)
    means = found.sets[0].per_reference
    assert means is not None
    # SRCC of three images: 1 - 6 sum d^2 / 24: 1, .5, -1, 1, .5; mean 2 / 5.
    assert means.srcc.value == pytest.approx(0.4)
    assert (means.references, means.excluded, means.total) == (5, 19, 24)
    assert means.reasons == {"all predictions are equal": 19}

    words = (
        "over 5 of 24 references; 19 have no correlation and are excluded (19: all predictions are "
        "equal)"
    )
    short = main_table(found, detailed=False)
    for text in (printed(short), to_markdown(short), to_latex(short)):
        assert f"sriqa, mean per reference: {words}" in " ".join(text.split())
        assert "5/24 ref." in text
    write_outcome(found, rows, ReportConfig(plots=False, worst=0), RunLog(tmp_path), None)
    # A CSV file has no notes: the row itself states it.
    lines = list(csv.DictReader(io.StringIO((tmp_path / "tables/metrics.csv").read_text())))
    assert (lines[1]["scored"], lines[1]["remarks"]) == ("5/24 ref.", words)
    assert words in (tmp_path / "report.md").read_text()

    values = json.loads((tmp_path / "metrics.json").read_text())["sets"]["sriqa"]["per_reference"]
    assert (values["references"], values["excluded"]) == (5, 19)
    assert values["reasons"] == means.reasons
    summary = summary_values(found, found.sets[0].srcc, {})["sets"]["sriqa"]["per_reference"]
    assert summary == {
        "srcc": pytest.approx(0.4), "references": 5, "excluded": 19, "reasons": means.reasons,
    }  # fmt: skip
    logged = metric_values(found)
    assert logged["eval/sriqa/references"] == 5
    assert logged["eval/sriqa/references_excluded"] == 19


def test_references_without_any_score_are_missing_too() -> None:
    # A: 1; B: no image with a score; C: two images; D: one score is missing, two are left.
    nan = np.nan
    scores = [1, 2, 3, nan, nan, nan, 1, 2, 1, 2, nan]
    mos = [1, 2, 3, 1, 2, 3, 1, 2, 1, 2, 3]
    references = ["A"] * 3 + ["B"] * 3 + ["C"] * 2 + ["D"] * 3
    means = set_metrics(predictions(scores, mos, references=references), NONE).per_reference
    assert means is not None
    assert (means.srcc.value, means.references, means.total) == (1.0, 1, 4)
    assert means.reasons == {"fewer than 3 images with a score": 3}
    # Nothing is left to average; the count reports it all the same.
    alone = predictions([1, nan, 2, nan], [1, 2, 1, 2], references=["A", "A", "B", "B"])
    none = set_metrics(alone, NONE).per_reference
    assert none is not None
    assert (none.references, none.excluded) == (0, 2)


def test_images_without_a_reference_are_the_reason_why_there_is_no_mean() -> None:
    rows = predictions([1, 2, 3], [1, 2, 3], references=["A", "A", None])  # type: ignore[list-item]
    found = set_metrics(rows, NONE)
    assert found.per_reference is None
    assert "no means per reference: 1 of 3 images have no reference" in found.warnings


def test_rows_of_distortions_count_the_images_they_lack() -> None:
    nan = np.nan
    rows = predictions(
        [1, 2, 3, 4, nan, 2, 2, 2, nan, 5],
        [1, 2, 3, 4, 5, 1, 2, 3, 4, 5],
        distortions=["blur"] * 5 + ["jpeg"] * 3 + ["lost", None],  # type: ignore[list-item]
    )
    found = evaluation(NONE, rows)
    (table,) = distortion_tables(found)
    assert [row[:2] for row in table.rows] == [("blur", "4/5"), ("jpeg", "3/3"), ("lost", "0/1")]
    assert table.notes == (
        "jpeg: all predictions are equal",
        "lost: 0 images, at least 3 are needed",
        "1 of 10 images have no distortion and are excluded",
    )
    values = json_values(found)["sets"]["demo"]["distortions"]
    assert (values["blur"]["images"], values["blur"]["excluded"]) == (4, 1)


def test_calibration_states_its_images() -> None:
    rng = np.random.default_rng(0)
    mos = rng.uniform(1, 5, 60)
    answers = mos[:, None] + rng.normal(0, 0.5, (60, 3))
    answers[:4, 1:] = np.nan
    answers[4] = np.nan
    options = MetricOptions(draws=0)
    found = evaluation(options, predictions(answers, mos))
    (table,) = calibration_tables(found)
    assert "over 55 of 60 images" in table.title
    assert table.notes == ("5 images are excluded: fewer than two valid answers, or no score",)
    values = json_values(found)["sets"]["demo"]
    assert (values["calibration"]["images"], values["calibration"]["excluded"]) == (55, 5)
    assert values["score_std_images"] == 55
    assert summarise(predictions(answers, mos), draws=0).n_std == 55


def test_draws_without_the_metric_are_counted() -> None:
    scores, mos = [1, 1, 1, 2, 2, 2], [1, 2, 3, 4, 5, 6]
    options = MetricOptions(curves=(), draws=1000)
    rows = predictions(scores, mos)
    drawn = bootstrap_draws(srcc, scores, mos, draws=1000, seed=set_seed(0, "demo"))
    lost = int(np.isnan(drawn).sum())
    # All six of one score: 2 / 2^6 = 3 % of the draws.
    assert 10 < lost < 50
    found = evaluation(options, rows)
    interval = found.sets[0].srcc.interval
    assert (interval.draws, interval.lost) == (1000, lost)
    words = (
        f"demo: {lost} of 1000 bootstrap draws have no SRCC, KRCC, PLCC and are excluded from the "
        "intervals"
    )
    assert words in main_table(found, detailed=False).notes
    values = json_values(found)["sets"]["demo"]["srcc"]
    assert (values["draws"], values["draws_excluded"]) == (1000, lost)


def test_a_mean_over_sets_names_their_number_and_what_is_missing() -> None:
    good = predictions([1, 2, 3, 5], [1, 2, 3, 4], dataset="livec")
    flat = predictions([2.0] * 4, [1, 2, 3, 4], dataset="flat")
    table = main_table(evaluation(NONE, good, flat), detailed=True)
    assert table.rows[2][0] == "mean of 2 sets"
    assert table.rows[2][-1] == "no mean: flat: all predictions are equal"
    assert "mean of sets: no mean: flat: all predictions are equal" in table.notes
    assert json_values(evaluation(NONE, good, flat))["mean_over"] == ["livec", "flat"]


def test_a_gain_counts_the_images_that_one_side_did_not_score() -> None:
    mos = [1, 2, 3, 4, 5]
    gain = paired_gain(
        predictions([1, 2, 3, np.nan, 5], mos), predictions([1, np.nan, 3, 4, 5], mos), draws=0
    )
    assert (gain.n, gain.excluded) == (3, 2)


def test_a_comparison_states_which_run_lacks_scores() -> None:
    mos = np.arange(10.0)
    first, second = mos.copy(), mos[::-1].copy()
    first[0] = second[1] = second[2] = np.nan
    runs = [EvaluatedRun("a", predictions(first, mos)), EvaluatedRun("b", predictions(second, mos))]
    found = compare_runs(runs, NONE)
    table, _ = comparison_tables(found, NONE, runs)
    assert table.title == (
        "SRCC by run. demo, 7 images scored by all runs of 10 (3 excluded: 1 without a score from "
        "a, 2 without a score from b)"
    )
    assert comparison_values(found)["demo"]["unscored"] == {"a": 1, "b": 2}  # type: ignore[index]
