"""The page of each kind of run, from files alone; what is not there, damaged or hostile."""

from __future__ import annotations

import errno
import json
import logging
import math
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from tests.report_page import folders
from tests.report_page.folders import HOSTILE
from vqr1.cli.report import main
from vqr1.errors import DataError
from vqr1.report_page import write
from vqr1.report_page.charts import CURVE_POINTS, MOST_POINTS, drawn, thinned
from vqr1.report_page.files import ScoredImage, read_curves, read_scored
from vqr1.report_page.pages import page_of
from vqr1.report_page.sections import Answers, Chart, TableBlock, charts_of
from vqr1.report_page.write import add_report, write_report_page
from vqr1.tracking.journal import Journal


@pytest.fixture(autouse=True)
def library(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the library itself, which the tests in a browser draw with."""
    monkeypatch.setattr(write, "chart_library", lambda: "/* library */")


class Elements(HTMLParser):
    """Elements by name, and the text of the page's JSON."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.names: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text = self.json = ""
        self._inside = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.append(tag)
        self.attributes += attrs
        self._inside = "json" if ("id", "charts") in attrs else tag

    def handle_data(self, data: str) -> None:
        if self._inside == "json":
            self.json += data
        elif self._inside not in ("script", "style"):
            self.text += data


def test_text_of_users_and_models_is_never_markup(tmp_path: Path) -> None:
    page = Elements(write_report_page(folders.training(tmp_path)).read_text())
    # The charts' JSON, the library, the page's own; and no image: no thumbnail is a data URI here.
    assert page.names.count("script") == 3
    assert "img" not in page.names
    assert not [name for name, _ in page.attributes if name.startswith("on")]
    assert "api_key=***" in page.text
    assert "hunter2" not in page.text + page.json
    # In the answers, the worst image, the table's title and note, config and environment.
    assert page.text.count(HOSTILE) >= 8
    points = [chart for chart in json.loads(page.json).values() if "image" in str(chart)]
    assert any(row["image"] == HOSTILE for row in points[-1]["data"]["values"])
    assert not [
        v for n, v in page.attributes if n in ("src", "href") and not str(v).startswith("#")
    ]


def test_a_training(tmp_path: Path) -> None:
    page = page_of(folders.training(tmp_path))
    assert [(card.label, card.value) for card in page.cards] == [
        ("Test SRCC", "0.900"), ("Gain", "+0.800"), ("Test images", "12"), ("Exported step", "30"),
    ]  # fmt: skip
    blocks = {section.title: section.blocks for section in page.shown()}
    assert list(blocks) == [
        "Results", "Curves", "Predictions of the test images",
        "Images scored worst, after training", "Answers before and after", "Configuration",
        "Environment",
    ]  # fmt: skip
    titles = [block.title for block in blocks["Curves"] if isinstance(block, Chart)]
    assert titles == ["Validation: correlation with MOS", "Reward", "Loss"]
    logged = blocks["Curves"][-1]
    assert isinstance(logged, TableBlock)
    assert ("val/srcc", "4", "0", "0.6", "30") in logged.rows
    (answers,) = blocks["Answers before and after"]
    assert isinstance(answers, Answers)
    assert {(one.image, one.before[0], one.after[0]) for one in answers.answers} >= {
        ("1.png", "3.10", "1.35"), (HOSTILE, "3.00", "1.50"),
    }  # fmt: skip


def test_a_folder_of_an_earlier_version_shows_what_it_holds(tmp_path: Path) -> None:
    folders.write(tmp_path / "run.json", {})
    folders.write(tmp_path / "summary.json", {"test_images": None, "exported_step": 3})
    folders.write(tmp_path / "tables/old.csv", "set,SRCC\ndemo,0.5\n")
    page = page_of(tmp_path)
    (table,) = [block for block in page.shown()[0].blocks if isinstance(block, TableBlock)]
    assert (table.title, table.columns, table.rows) == ("old", ["set", "SRCC"], [["demo", "0.5"]])
    assert [section.title for section in page.shown()] == ["Results", "Curves"]
    assert charts_of(page) == {}
    # Without charts the library is not needed.
    assert "/* library */" not in write_report_page(tmp_path).read_text()


def test_an_evaluation_and_its_fitted_curve(tmp_path: Path) -> None:
    page = page_of(folders.evaluation(tmp_path))
    intervals, scatter = charts_of(page).values()
    rows = intervals["data"]["values"]
    assert [(row["name"], row["low"], row["value"]) for row in rows] == [
        ("demo", 0.6, 0.8), ("other", 0.6, 0.8),
    ]  # fmt: skip
    points, line = scatter["layer"]
    assert len(points["data"]["values"]) == 12
    # b2 + (b1 - b2) / (1 + exp(-(x - b3) / b4)) at both ends of the scores, 0 and 2.75.
    ends = [line["data"]["values"][i] for i in (0, -1)]
    assert [end["score"] for end in ends] == [0.0, 2.75]
    expected = [1 + 4 / (1 + math.exp((3 - x) / 0.5)) for x in (0, 2.75)]
    assert [end["mos"] for end in ends] == pytest.approx(expected)


def test_a_sweep_and_its_jobs(tmp_path: Path) -> None:
    page = Elements(write_report_page(folders.sweep(tmp_path)).read_text())
    assert ("href", "0/report.html") in page.attributes
    assert ("href", "1/report.html") not in page.attributes
    assert "0.500 [0.400, 0.600]" in page.text
    assert "0 of 1 (1 failed)" in page.text
    charts = json.loads(page.json)
    assert charts["chart-1"]["data"]["values"][-1] == {
        "step": 5, "value": 0.5, "series": "reward=mse (job 0)",
    }  # fmt: skip


def test_a_comparison(tmp_path: Path) -> None:
    runs = {name: {"srcc": value, "low": value - 0.1, "high": value + 0.1}
            for name, value in (("a", 0.5), ("b", 0.7))}  # fmt: skip
    folders.write(tmp_path / "evaluation.json", {})
    sets = {"demo": {"images": 40, "runs": runs}}
    folders.write(tmp_path / "summary.json", {"compared": ["x", "y"], "sets": sets})
    (chart,) = charts_of(page_of(tmp_path)).values()
    assert [row["value"] for row in chart["data"]["values"]] == [0.5, 0.7]
    # The settings of a sweep, each with several seeds.
    setting = {"reward=mse": {"srcc": {"value": 0.6, "low": 0.5, "high": None}}}
    sets = {"demo": {"images": 40, "settings": setting}}
    folders.write(tmp_path / "summary.json", {"compared": ["x"], "sets": sets})
    (chart,) = charts_of(page_of(tmp_path)).values()
    (row,) = chart["data"]["values"]
    assert (row["name"], row["value"], row["low"], row["high"]) == ("reward=mse", 0.6, 0.5, None)


def test_a_page_that_cannot_be_written_is_one_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    kept: list[str] = []
    folder = folders.training(tmp_path)
    assert add_report(folder, kept.append) == folder / "report.html"
    assert (kept, caplog.messages) == (["report.html"], [])

    def full(path: Path, content: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    with monkeypatch.context() as patch:
        patch.setattr(write, "write_file", full)
        assert add_report(folder, kept.append) is None
    (line,) = caplog.messages
    assert "report.html: No space left on device; make room there" in line
    assert "\n" not in line
    assert f"report {tmp_path}" in line
    caplog.clear()
    # Files of an unexpected form, one after the other.
    damaged = {"worst/demo.json": '[{"mos": []}]', "metrics.csv": "\0",
               "tables/tables.json": '[{"columns": 3}]', "summary.json": "{"}  # fmt: skip
    for name, content in damaged.items():
        folders.write(folder / name, content)
        add_report(folder)
    assert len(caplog.messages) == 2
    assert "summary.json: damaged" in caplog.messages[1]


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = folders.evaluation(tmp_path / "run")
    for _ in range(2):
        assert main([str(folder)]) == 0
    assert capsys.readouterr().out.split() == [str(folder / "report.html")] * 2
    other = tmp_path / "mine.html"
    other.write_text("mine")
    assert main([str(folder), f"output={other}"]) == 2
    assert "this command did not write it" in capsys.readouterr().err
    assert other.read_text() == "mine"
    lost, taken = f"output={tmp_path / 'lost/a.html'}", f"output={tmp_path}"
    for wrong, words in ((["nowhere"], "no such folder"), ([], "name one folder"),
                         ([str(folder), lost], f"{lost}: no such folder"),
                         ([str(folder), taken], f"{taken}: a folder; name a file in it"),
                         ([str(tmp_path)], "holds no finished run")):  # fmt: skip
        assert main(wrong) == 2
        assert words in capsys.readouterr().err
    folders.write(tmp_path / "chain/chain.json", {})
    with pytest.raises(DataError, match="one of them"):
        page_of(tmp_path / "chain")


def test_curves_of_a_journal(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    for step in (3, 1, 2):
        journal.metrics({"val/srcc": step / 10, "train/kl": math.nan if step == 2 else 0.0}, step)
    journal.close()
    assert read_curves(tmp_path) == {
        "train/kl": [(1, 0.0), (3, 0.0)], "val/srcc": [(1, 0.1), (2, 0.2), (3, 0.3)],
    }  # fmt: skip


def test_curves_of_a_log_that_a_kill_cut_off_and_an_earlier_version_named(tmp_path: Path) -> None:
    log = "step,train/well_formed_rate,val/srcc\n1,0.25,nan\n2,0.5,0.1\n3,0.7"
    (tmp_path / "metrics.csv").write_text(log)
    assert read_curves(tmp_path) == {
        "train/format_compliance_rate": [(1, 0.25), (2, 0.5)], "val/srcc": [(2, 0.1)],
    }  # fmt: skip
    (tmp_path / "metrics.csv").write_text(f"{log}1,\n" + "\0" * 40)
    assert read_curves(tmp_path)["train/format_compliance_rate"][-1] == (3, 0.71)


def test_scores_of_several_answers(tmp_path: Path) -> None:
    rows = [("a", 2.0, "1", "one"), ("a", 2.0, "2", "two"), ("a", 2.0, "6", "six"),
            ("b", 3.0, "", "none"), ("b", 3.0, "4", "four")]  # fmt: skip
    folders.predictions(tmp_path / "p.csv", rows)
    a, b = read_scored(tmp_path / "p.csv")
    # The mean of 1, 2 and 6 is 3; 2 lies nearest to it.
    assert (a.score, a.text, b.score, b.text) == (3.0, "two", 4.0, "four")
    _, b = read_scored(tmp_path / "p.csv", "all_valid")
    assert math.isnan(b.score)


def test_long_curves_and_many_points_are_bounded() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=10_000)
    points = thinned(list(enumerate(values.tolist())))
    assert len(points) == CURVE_POINTS
    assert (points[0], points[-1]) == ((0, values[0]), (9_999, values[-1]))
    # Blocks of nearly equal size: their mean is nearly that of all.
    assert np.mean([value for _, value in points[1:-1]]) == pytest.approx(values.mean(), abs=2e-3)
    assert [step for step, _ in points] == sorted({step for step, _ in points})
    images = [ScoredImage("s", f"{i}", 1.0, math.nan if i < 9 else 2.0, "") for i in range(9_000)]
    found = drawn(images)
    assert len(found) == MOST_POINTS
    assert found == drawn(images[::-1])
