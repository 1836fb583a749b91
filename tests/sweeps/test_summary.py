from __future__ import annotations

import math
from pathlib import Path

import pytest
from scipy import stats

from vqr1.errors import ConfigError, DataError
from vqr1.sweeps.folder import Attempt, SweepFolder
from vqr1.sweeps.jobs import SweepJob
from vqr1.sweeps.report import SweepReport
from vqr1.sweeps.results import JobResult, read_folder, shown_metric
from vqr1.sweeps.summary import mean_interval, paired_p_value, setting_rows

METRIC = "test/srcc_after"


def job(reward: str, seed: int, value: float | None, status: str = "FINISHED") -> JobResult:
    metrics = {} if value is None else {METRIC: value}
    swept = {"reward": reward, "seed": str(seed)}
    return JobResult(f"{reward}{seed}", seed, swept, status, metrics)


JOBS = [
    job("fidelity", 1, 0.60), job("fidelity", 2, 0.64), job("fidelity", 3, 0.68),
    job("mse", 1, 0.50), job("mse", 2, 0.60), job("mse", 3, None, "FAILED"),
]  # fmt: skip


def test_mean_and_interval() -> None:
    # mean .64, std .04, error .04 / sqrt(3) = .023094; t(.975, 2) = 4.302653; reach .099366
    interval = mean_interval([0.60, 0.64, 0.68])
    assert interval.mean == pytest.approx(0.64)
    assert interval.high - interval.mean == pytest.approx(0.099366, abs=1e-6)
    assert math.isnan(mean_interval([0.5]).low)
    assert math.isnan(mean_interval([]).mean)


def test_paired_test_is_students() -> None:
    first, second = [0.60, 0.64, 0.68], [0.50, 0.61, 0.60]
    expected = stats.ttest_rel(second, first).pvalue
    assert paired_p_value(first, second) == pytest.approx(expected)
    assert paired_p_value([0.5, 0.6], [0.5, 0.6]) == 1.0
    assert paired_p_value([0.5], [0.6]) is None


def test_rows() -> None:
    first, second = setting_rows(JOBS, METRIC)
    assert first.setting == {"reward": "fidelity"}
    assert first.mean.mean == pytest.approx(0.64)
    assert first.std == pytest.approx(0.04)
    assert first.best == 0.68
    assert first.difference is None
    # Only seeds 1 and 2 are in both: -.10 and -.04, mean -.07
    assert (second.jobs, sorted(second.by_seed)) == (3, ["1", "2"])
    assert second.difference is not None
    assert second.difference.mean == pytest.approx(-0.07)
    assert second.p_value == pytest.approx(stats.ttest_rel([0.50, 0.60], [0.60, 0.64]).pvalue)


def test_one_seed_shows_no_interval_and_no_test() -> None:
    page = SweepReport.build("train.py", [JOBS[0], JOBS[3]], None).markdown()
    assert "| fidelity | 1 of 1 | 0.600 | - | 0.600 |  |  |" in page
    assert "| mse | 1 of 1 | 0.500 | - | 0.500 | -0.100 |  |" in page


def test_markdown_counts_and_names_what_failed() -> None:
    failed = JobResult("x", 5, {"reward": "mse", "seed": "3"}, "FAILED", error="ValueError: no")
    page = SweepReport.build("train.py -m", [*JOBS[:5], failed], None).markdown()
    assert "test/srcc_after of 6 jobs: 5 finished, 1 failed" in page
    assert "| mse | 2 of 3 |" in page
    assert "- job 5 (reward=mse, seed=3): ValueError: no" in page


def test_a_metric_that_never_appears() -> None:
    with pytest.raises(ConfigError, match=r"sweep\.metric=val/sroc: no finished job logged it"):
        shown_metric(JOBS, "val/sroc")
    assert shown_metric(JOBS, None) == METRIC
    assert shown_metric([JOBS[5]], "val/sroc") is None


def test_a_number_that_a_kill_cut_off_is_none(tmp_path: Path) -> None:
    attempt = Attempt(0, tmp_path / "0", SweepJob("a", ("seed=1",), {"seed": "1"}))
    SweepFolder(tmp_path).prepare(attempt)
    table = attempt.folder / "metrics.csv"
    whole = "step,val/srcc,loss\n0,0.125,\n0,,2.5\n50,0.612,\n"
    # Without its last digits and line end .612 would read as .6.
    for text, last, curve in (
        (whole, 0.612, ((0, 0.125), (50, 0.612))),
        (whole[:-4], 0.125, ((0, 0.125),)),
        ("step,val/sr", None, ()),
        ("", None, ()),
    ):
        table.write_text(text)
        (result,) = read_folder(SweepFolder(tmp_path), "val/srcc")
        assert result.metrics.get("val/srcc") == last
        assert result.curve == curve
    table.write_text("step,val/srcc,val/srcc\n0,0.1,0.2\n")
    with pytest.raises(DataError, match=r"metrics\.csv:1: column 'val/srcc' stands 2 times"):
        read_folder(SweepFolder(tmp_path), "val/srcc")
