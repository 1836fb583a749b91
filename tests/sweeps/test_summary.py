from __future__ import annotations

import json
import math
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
from scipy import stats

from vqr1.cli.summarize import main
from vqr1.errors import ConfigError, DataError
from vqr1.sweeps.folder import Attempt, SweepFolder, SweepRecord
from vqr1.sweeps.jobs import SweepJob
from vqr1.sweeps.parent import ParentRun
from vqr1.sweeps.plots import key_plot
from vqr1.sweeps.report import SweepReport
from vqr1.sweeps.results import (
    JobResult,
    _logged,
    _summary_metrics,
    read_folder,
    shown_metric,
)
from vqr1.sweeps.summary import mean_interval, paired_p_value, setting_rows
from vqr1.training.run_lookup import find_run

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
    assert "| mse | 2 of 3 (1 failed) |" in page
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
    with pytest.raises(DataError, match=r"metrics\.csv: damaged: two columns of one name"):
        read_folder(SweepFolder(tmp_path), "val/srcc")


def test_a_mean_over_seeds_states_what_it_lacks_and_why() -> None:
    jobs = [
        job("fidelity", 1, 0.60), job("fidelity", 2, 0.64), job("fidelity", 3, 0.68),
        job("mse", 1, 0.50), job("mse", 2, math.nan), job("mse", 3, None),
        job("mse", 4, 0.9, "PRUNED"), job("mse", 5, None, "FAILED"),
    ]  # fmt: skip
    report = SweepReport.build("train.py -m", jobs, None)
    _, mse = report.rows
    # An undefined value is no number: neither mean nor best may depend on it.
    assert (mse.mean.mean, mse.best, mse.by_seed) == (0.5, 0.5, {"1": 0.5})
    assert mse.missing == {"undefined": 1, "not logged": 1, "pruned": 1, "failed": 1}
    page = report.markdown()
    assert "| fidelity | 3 of 3 | 0.640 [" in page
    # Difference over seed 1 alone: -.10; seeds 2 and 3 are only the first row's.
    assert (
        "| mse | 1 of 5 (1 undefined, 1 not logged, 1 pruned, 1 failed) | 0.500 | - | 0.500 | "
        "-0.100 over 1 of 3 seeds |  |"
    ) in page
    values = json.loads(json.dumps(report.values(), allow_nan=False))
    assert values["rows"][1]["missing"] == mse.missing
    assert (values["rows"][1]["jobs"], values["rows"][1]["difference_over"]) == (5, 1)
    table = report.table()
    assert [text if isinstance(text, str) else None for text in table["missing"]] == [
        None, None, None, None, "undefined", "not logged", "pruned", "failed",
    ]  # fmt: skip
    assert table[METRIC].notna().tolist() == [True] * 4 + [False, False, True, False]


def test_the_last_value_counts_also_where_it_is_undefined(tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_text(
        "step,val/srcc,train/loss\n0,,1.5\n1,0.5,\n2,,1.0\n3,nan,\n"
    )
    metrics, curve = _logged(tmp_path, "val/srcc")
    assert math.isnan(metrics["val/srcc"])
    assert metrics["train/loss"] == 1.0
    assert curve == ((1, 0.5),)
    summary = tmp_path / "summary.json"
    summary.write_text('{"test_srcc_after": null, "test_images": 6, "val_srcc_best": null}')
    assert math.isnan(_summary_metrics(summary)["test/srcc_after"])
    summary.write_text('{"test_srcc_after": null, "test_images": null, "val_srcc_best": 0.5}')
    assert _summary_metrics(summary) == {"val/srcc_best": 0.5}


def test_plots_count_the_runs_of_a_mean() -> None:
    curve = ((1, 0.4), (2, 0.5))
    jobs = [
        replace(job("fidelity", 1, 0.6), curve=curve), job("fidelity", 2, math.nan),
        replace(job("mse", 1, 0.5), curve=curve),
    ]  # fmt: skip
    curves, finals = key_plot(jobs, "reward", "val/srcc", METRIC).axes
    assert curves.get_legend_handles_labels()[1] == ["fidelity (1 of 2 runs)", "mse"]
    # The undefined run is no point of the final values.
    assert len(finals.collections[0].get_offsets()) == 1


@pytest.mark.parametrize(("values", "named"), [(60, True), (200, False)])
def test_plots_of_many_values_have_room(values: int, named: bool, tmp_path: Path) -> None:
    curve = ((1, 0.4), (2, 0.5))
    jobs = [replace(job(str(n), 1, n / values), curve=curve, name=str(n)) for n in range(values)]
    plot = key_plot(jobs, "reward", "val/srcc", METRIC)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # "axes sizes collapsed to zero"
        plot.savefig(tmp_path / "many.png", dpi=40)
    curves, finals = plot.axes
    assert (curves.get_legend() is not None) == named
    assert len(finals.get_yticks()) == (values if named else 0)


@pytest.mark.medium
def test_a_folder_is_summarised_without_its_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    folder = SweepFolder(tmp_path / "sweep")
    address = f"sqlite:///{tmp_path / 'gone.db'}"
    jobs = {"n1": {"seed": "1"}, "n2": {"seed": "2"}}
    folder.write(SweepRecord("key", "train.py -m", {}, {"seed": "1,2"}, jobs, address, "0" * 32))
    attempt = Attempt(0, folder.path / "0", SweepJob("n1", (), {"seed": "1"}, False))
    folder.prepare(attempt)
    assert main(["folder=~/sweep"]) == 0
    assert (folder.path / "sweep_summary.md").is_file()
    assert not (tmp_path / "gone.db").exists()
    file = tmp_path / "file"
    file.touch()
    for output in (file, file / "below"):
        assert main([f"folder={folder.path}", f"output={output}"]) == 2
    with pytest.raises(ConfigError, match=r"parent=0+: no MLflow database sqlite:///"):
        ParentRun.open(address, "0" * 32)
    with pytest.raises(ConfigError, match=r"resume=0+: no MLflow database sqlite:///"):
        find_run("0" * 32, address)
    assert not (tmp_path / "gone.db").exists()
