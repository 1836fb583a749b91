"""Tables, values and images of a report."""

from __future__ import annotations

import csv
import io
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from tests.evaluation.builders import predictions
from vqr1.config import ReportConfig
from vqr1.evaluation.metric_options import MetricOptions
from vqr1.evaluation.predictions import Predictions, concatenate
from vqr1.evaluation.published import published_groups
from vqr1.evaluation.published_report import published_tables
from vqr1.evaluation.report import Evaluation, main_table
from vqr1.evaluation.report_values import (
    finite,
    json_values,
    metric_values,
    summary_values,
    with_skipped,
)
from vqr1.evaluation.report_writer import all_tables, write_outcome
from vqr1.evaluation.set_metrics import set_metrics
from vqr1.evaluation.tables import Table, to_csv, to_latex, to_markdown, to_rich
from vqr1.evaluation.worst_sheet import worst_images, worst_sheet
from vqr1.tracking import RunLog

pytestmark = pytest.mark.medium

OPTIONS = MetricOptions(draws=100)


def rows(dataset: str, seed: int, n: int = 90) -> Predictions:
    rng = np.random.default_rng(seed)
    mos = rng.uniform(1, 5, n)
    answers = mos[:, None] + 0.6 * rng.normal(size=(n, 3))
    return predictions(
        answers,
        mos,
        dataset=dataset,
        references=[f"I{i % 9}" for i in range(n)],
        distortions=["blur" if i % 2 else "jpeg" for i in range(n)],
    )


def evaluation(*parts: Predictions) -> Evaluation:
    return Evaluation("model, mode", tuple(set_metrics(p, OPTIONS) for p in parts), OPTIONS)


def test_main_table_holds_sets_means_and_reference_means() -> None:
    found = evaluation(rows("livec", 0), rows("koniq", 1))
    table = main_table(found, detailed=True)
    assert [row[0] for row in table.rows] == [
        "livec",
        "koniq",
        "mean of 2 sets",
        "mean of 2 sets, size-weighted",
        "livec, mean per reference",
        "koniq, mean per reference",
    ]
    assert table.title == "model, mode"
    srcc = found.sets[0].srcc
    cell = table.rows[0][table.columns.index("SRCC")]
    assert cell == f"{srcc.value:.3f} [{srcc.interval.low:.3f}, {srcc.interval.high:.3f}]"
    # RMSE has units, so that it has no mean.
    assert table.rows[2][table.columns.index("RMSE, 4-p. fit")] == ""
    assert any("bootstrap, 100 draws over livec: 9 references" in note for note in table.notes)


def test_the_lost_probability_is_stated_with_its_number_of_images() -> None:
    part = rows("kadid", 1, 4)
    # (.1 + .2 + .6) / 3 = .3, of three images; the fourth has no answer that begins.
    known = replace(part, lost=np.array([0.1, 0.2, np.nan, 0.6]))
    table = main_table(evaluation(known), detailed=True)
    (note,) = [note for note in table.notes if "expected scores exclude" in note]
    assert note.startswith("kadid: expected scores exclude 30.00% of the probability on average")
    assert note.endswith("60.0% at most, over 3 of 4 images")
    assert not [
        note
        for note in main_table(evaluation(part), detailed=True).notes
        if "expected scores exclude" in note
    ]


def test_an_interval_that_is_missing_is_explained() -> None:
    few = predictions([1.0, 3.0, 2.0, 4.0], [1.0, 2.0, 3.0, 4.0], dataset="livec")
    assert (
        "livec, no interval of SRCC, KRCC, PLCC: 4 units to resample, at least 5 are needed"
        in main_table(evaluation(few), detailed=True).notes
    )


def test_an_interval_that_a_mean_per_reference_lacks_is_explained() -> None:
    # Two references of three images: both have correlations, and two are too few to resample.
    few = predictions([1, 2, 3, 1, 3, 2], [1, 2, 3, 1, 2, 3], references=list("aaabbb"))
    note = "demo, mean per reference, no interval: 2 units to resample, at least 5 are needed"
    assert note in main_table(evaluation(few), detailed=True).notes
    without = main_table(Evaluation("x", evaluation(few).sets, replace(OPTIONS, draws=0)), True)
    assert not [line for line in without.notes if "no interval" in line]


def test_published_metrics_stand_beside_ours() -> None:
    found = evaluation(rows("livec", 0), rows("koniq", 1))
    tables = published_tables(found)
    paper = tables[0]
    assert paper.columns == ("model", "PLCC", "livec", "koniq", "mean of 2 sets")
    by_model = {row[0]: row for row in paper.rows}
    # The paper's table: CLIVE .750/.794, KonIQ .830/.840; (.750 + .830) / 2 = .790.
    assert by_model["VisualQuality-R1"][2:] == ("0.750/0.794", "0.830/0.840", "0.790/0.817")
    ours = next(row for row in paper.rows if row[:2] == ("this evaluation", "raw"))
    plcc = found.sets[0].metrics["plcc"].value
    assert ours[2] == f"{found.sets[0].srcc.value:.3f}/{plcc:.3f}"
    assert published_tables(evaluation(rows("nobody", 0))) == []
    # Metrics that nobody compared with their source report it under the table.
    assert any("come at second hand" in note for note in tables[1].notes)


def test_published_means_equal_those_printed_in_the_paper() -> None:
    """Means of the eight sets as in the table that the metrics come from (rounded there)."""
    printed = {
        "NIQE": (0.482, 0.519),
        "BRISQUE": (0.431, 0.482),
        "LIQE": (0.717, 0.709),
        "Q-Align": (0.632, 0.679),
        "DeQA": (0.731, 0.772),
        "Qwen2.5-VL-7B, zero-shot": (0.708, 0.752),
        "Q-Insight": (0.766, 0.803),
        "VisualQuality-R1": (0.777, 0.814),
        "VisualQuality-R1, KADID-10k + SPAQ": (0.791, 0.831),
    }
    group = published_groups()[0]
    sets = list(group.models[0].metrics)
    assert len(sets) == 8
    for model in group.models:
        mean = model.mean(sets)
        assert mean is not None
        assert (mean.srcc, mean.plcc) == pytest.approx(printed[model.model], abs=0.0011)


def test_every_table_in_every_form() -> None:
    found = evaluation(rows("livec", 0), rows("koniq", 1))
    for table in all_tables(found, published=True):
        parsed = list(csv.reader(io.StringIO(to_csv(table))))
        assert parsed == [list(table.columns), *map(list, table.rows)]
        latex = to_latex(table)
        assert latex.count(r" \\") == len(table.rows) + 1
        assert latex.count("&") == (len(table.rows) + 1) * (len(table.columns) - 1)
        assert to_markdown(table).count("\n| ") == len(table.rows) + 1


def test_latex_and_markdown_escape() -> None:
    table = Table("50% of a_b", ("x", "y"), (("a|b", "[1, 2]"),), "name", ("R&D #1",))
    assert r"\caption{50\% of a\_b}" in to_latex(table)
    assert r"R\&D \#1" in to_latex(table)
    assert r"| a\|b | [1, 2] |" in to_markdown(table)
    with pytest.raises(ValueError, match="1 cells for 2 columns"):
        Table("t", ("x", "y"), (("a",),), "name")


def test_the_terminal_reads_no_markup() -> None:
    cells = ("[red]a[/red].png", "[/]", ":smile:")
    table = Table(f"run {cells[0]}", cells, (cells,), "name", (f"note {cells[1]}",))
    console = Console(file=io.StringIO(), width=120)
    console.print(to_rich(table))
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert lines[0].strip() == "run [red]a[/red].png"
    assert lines[-1].strip() == "note [/]"
    assert sum(line.split() == list(cells) for line in lines) == 2


def test_skipped_images_are_given() -> None:
    found = set_metrics(rows("livec", 0), MetricOptions(draws=0))
    assert with_skipped(found, 0) == found
    distinct = Evaluation("", (with_skipped(found, 3),), MetricOptions(draws=0))
    warning = "3 images were excluded: missing, empty or not decodable"
    assert f"livec: {warning}" in main_table(distinct, detailed=False).notes
    values = summary_values(distinct, found.srcc, {"livec": 3})
    assert values["skipped"] == {"livec": 3}
    assert values["sets"]["livec"]["warnings"] == [warning]
    json.dumps(values, allow_nan=False)


def test_no_infinity_reaches_json() -> None:
    assert [finite(value) for value in (1.5, math.nan, math.inf, -math.inf)] == [1.5, *[None] * 3]


def test_values_have_reasons_and_no_nan() -> None:
    found = evaluation(rows("livec", 0), predictions([2.0] * 6, range(6), dataset="flat"))
    values = json_values(found)
    json.dumps(values, allow_nan=False)
    assert values["sets"]["flat"]["srcc"] == {
        "value": None,
        "low": None,
        "high": None,
        "reason": "all predictions are equal",
        "draws": 0,
        "draws_excluded": 0,
    }
    assert values["mean"]["srcc"]["reason"] == "flat: all predictions are equal"
    metrics = metric_values(found)
    assert metrics["eval/livec/srcc"] == found.sets[0].srcc.value
    assert "eval/flat/srcc" not in metrics
    assert all(math.isfinite(value) for value in metrics.values())


def test_worst_images_come_first_with_their_reasoning() -> None:
    part = rows("livec", 0)
    fit = set_metrics(part, OPTIONS).fits["logistic4"].fit
    worst = worst_images(part, fit, 5)
    errors = np.abs(fit(part.image_scores()) - part.mos)
    assert [abs(item.error) for item in worst] == pytest.approx(sorted(errors)[::-1][:5])
    assert worst[0].reasoning.startswith("noise ")
    sheet = worst_sheet(worst, "title", "caption", lambda row: Image.new("RGB", (40, 90), "red"))
    assert sheet.getpixel((12 + 100, 58 + 100)) == (255, 0, 0)


def test_everything_is_written(tmp_path: Path) -> None:
    folder = tmp_path
    parts = [rows("livec", 0), rows("koniq", 1)]
    write_outcome(
        evaluation(*parts),
        concatenate(parts),
        ReportConfig(worst=4),
        RunLog(folder),
        lambda dataset, row: Image.new("RGB", (30, 20), "blue"),
    )
    for name in (
        "report.md",
        "metrics.json",
        "tables/metrics.csv",
        "tables/metrics.tex",
        "tables/published_1.csv",
        "tables/distortions_livec.csv",
        "tables/calibration_koniq.csv",
        "plots/livec.png",
        "plots/srcc_by_set.png",
        "worst/koniq.png",
        "worst/koniq.json",
        "tables/tables.json",
    ):
        assert (folder / name).stat().st_size > 0, name
    assert Image.open(folder / "plots/livec.png").width > 900


def test_sets_whose_names_differ_in_little_have_files_of_their_own(tmp_path: Path) -> None:
    parts = [rows("a b", 0), rows("a-b", 1)]
    write_outcome(
        evaluation(*parts),
        concatenate(parts),
        ReportConfig(worst=2),
        RunLog(tmp_path),
        lambda dataset, row: Image.new("RGB", (30, 20), "blue"),
    )
    for folder, more in (("plots", {"srcc_by_set.png"}), ("worst", {"a-b.json", "a-b-2.json"})):
        found = {path.name for path in (tmp_path / folder).iterdir()}
        assert found == {"a-b.png", "a-b-2.png"} | more
    assert json.loads((tmp_path / "worst/a-b.json").read_text())[0]["dataset"] == "a-b"
