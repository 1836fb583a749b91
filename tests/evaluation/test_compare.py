"""Comparing runs: order, letters, tests, and runs that cannot be compared."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.evaluation.builders import predictions
from vqr1.errors import DataError
from vqr1.evaluation.compare import EvaluatedRun, compare_runs, read_runs
from vqr1.evaluation.compare_report import comparison_tables, comparison_values
from vqr1.evaluation.metric_options import MetricOptions
from vqr1.evaluation.prediction_file import write_predictions
from vqr1.iqa.correlation import srcc

FAST = MetricOptions(draws=200)


def evaluated(noise: dict[str, float], n: int = 150) -> list[EvaluatedRun]:
    rng = np.random.default_rng(0)
    mos = rng.uniform(1, 5, n)
    return [
        EvaluatedRun(name, predictions(mos + level * rng.normal(size=n), mos))
        for name, level in noise.items()
    ]


def test_two_good_runs_share_a_letter_and_a_bad_one_does_not() -> None:
    runs = evaluated({"bad": 3.0, "good": 0.5, "also": 0.5})
    runs[1] = replace(runs[1], caption="tiny, greedy answer")
    found = compare_runs(runs, FAST)[0]
    assert found.names[-1] == "bad"
    assert found.letters == ("a", "a", "b")
    assert len(found.pairs) == 3
    values = {run.name: srcc(run.predictions.scores[:, 0], run.predictions.mos) for run in runs}
    for pair in found.pairs:
        assert pair.gain.gain.value == pytest.approx(values[pair.first] - values[pair.second])
        assert pair.adjusted >= pair.gain.p
    worst = next(p for p in found.pairs if p.second == "bad")
    assert worst.wins.win_rate.value > 0.6
    assert worst.meng.p < 1e-6
    tables = comparison_tables([found], FAST, runs)
    assert tables[0].rows[-1][0] == "bad"
    assert [table.notes[-1] for table in tables] == ["good: tiny, greedy answer"] * 2
    assert comparison_values([found])["demo"]["runs"]["bad"]["group"] == "b"  # type: ignore[index]


def test_of_runs_that_could_not_be_tested_nothing_is_stated() -> None:
    runs = evaluated({"good": 0.5, "bad": 3.0})
    constant = np.full_like(runs[0].predictions.mos, 3.0)
    runs.append(EvaluatedRun("constant", predictions(constant, runs[0].predictions.mos)))
    found = compare_runs(runs, FAST)[0]
    assert found.letters == ("", "", "")
    for table in comparison_tables([found], FAST, runs):
        assert any(
            note.startswith("constant: no ") and note.endswith("all predictions are equal")
            for note in table.notes
        )
    values = comparison_values([found])["demo"]["runs"]  # type: ignore[index]
    assert values["constant"]["reason"] == "all predictions are equal"
    assert "reason" not in values["good"]


def test_images_without_a_score_are_excluded_from_all_runs() -> None:
    runs = evaluated({"a": 0.5, "b": 0.6}, n=40)
    broken = runs[1].predictions.scores.copy()
    broken[:4] = np.nan
    runs[1] = EvaluatedRun("b", predictions(broken, runs[1].predictions.mos))
    found = compare_runs(runs, FAST)[0]
    assert (found.images, found.excluded) == (36, 4)


def test_rows_are_matched_by_name_not_by_place(tmp_path: Path) -> None:
    runs = evaluated({"a": 0.5, "b": 0.6}, n=40)
    shuffled = runs[1].predictions.rows(np.random.default_rng(1).permutation(40))
    straight = compare_runs(runs, FAST)[0]
    assert compare_runs([runs[0], EvaluatedRun("b", shuffled)], FAST)[0] == straight


def test_runs_on_different_images_are_refused() -> None:
    runs = evaluated({"a": 0.5, "b": 0.6}, n=40)
    fewer = EvaluatedRun("b", runs[1].predictions.rows(np.arange(38)))
    with pytest.raises(DataError, match=r"2 only in the first \(38.png, 39.png\)"):
        compare_runs([runs[0], fewer], FAST)
    other = EvaluatedRun("b", predictions(np.arange(40.0), np.arange(40.0)))
    with pytest.raises(DataError, match="different MOS for"):
        compare_runs([runs[0], other], FAST)
    named = predictions(np.arange(40.0), np.arange(40.0), dataset="x")
    with pytest.raises(DataError, match="same sets"):
        compare_runs([runs[0], EvaluatedRun("b", named)], FAST)


def test_reading_runs(tmp_path: Path) -> None:
    run = evaluated({"a": 0.5}, n=10)[0]
    for name in ("x/one", "y/one"):
        (tmp_path / name).mkdir(parents=True)
        write_predictions(run.predictions, tmp_path / name / "predictions.csv")
    found = read_runs([str(tmp_path / "x/one"), str(tmp_path / "y/one/predictions.csv")])
    assert [evaluated_run.name for evaluated_run in found] == ["x/one", "y/one"]
    for name in ("niqe", "brisque"):
        unnamed = replace(run.predictions, datasets=(name,) * 10)
        write_predictions(unnamed, tmp_path / f"{name}.csv")
    files = read_runs([str(tmp_path / "niqe.csv"), str(tmp_path / "brisque.csv")])
    assert [found.dataset for found in compare_runs(files, FAST)] == ["one set"]
    with pytest.raises(DataError, match="holds no finished predictions"):
        read_runs([str(tmp_path), str(tmp_path / "x/one")])
    with pytest.raises(DataError, match="stands twice"):
        read_runs([str(tmp_path / "x/one")] * 2)
