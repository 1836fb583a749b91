"""Settings of a sweep on the test images of its runs: means over seeds, paired differences."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from tests.cli.conftest import Command, run  # noqa: F401
from tests.evaluation.builders import predictions
from vqr1.cli.evaluate import main
from vqr1.errors import DataError
from vqr1.evaluation.compare_settings import compare_settings, settings_tables, settings_values
from vqr1.evaluation.metric_options import MetricOptions
from vqr1.evaluation.predictions import Predictions
from vqr1.evaluation.summary import set_seed
from vqr1.iqa.bootstrap import bootstrap_draws, interval_of_draws
from vqr1.iqa.correlation import srcc
from vqr1.sweeps.folder import OUTCOME_FILE, Attempt, SweepFolder, SweepRecord, write_json
from vqr1.sweeps.jobs import SweepJob
from vqr1.training.prediction_cache import write_predictions

FAST = MetricOptions(draws=200)
NOISE = {"reward=mse": (0.5, 0.6), "reward=margin": (2.0, 1.5)}
"""By setting the noise of two seeds."""


def sweep_predictions(n: int = 60) -> dict[str, dict[str, Predictions]]:
    rng = np.random.default_rng(0)
    mos = rng.uniform(1, 5, n)
    return {
        name: {
            str(seed): predictions(mos + level * rng.normal(size=n), mos)
            for seed, level in enumerate(levels, start=1)
        }
        for name, levels in NOISE.items()
    }


def test_means_over_seeds_and_paired_differences() -> None:
    settings = sweep_predictions()
    (found,) = compare_settings(settings, FAST)
    first, second = found.settings
    values = {
        name: [srcc(p.scores[:, 0], p.mos) for p in by_seed.values()]
        for name, by_seed in settings.items()
    }
    mse, margin = values["reward=mse"], values["reward=margin"]
    assert (first.name, first.difference) == ("reward=mse", None)
    assert list(first.by_seed.values()) == pytest.approx(mse)
    assert first.mean.value == pytest.approx((mse[0] + mse[1]) / 2)
    # Of two values: their distance over the square root of 2.
    assert first.std == pytest.approx(abs(mse[0] - mse[1]) / 2**0.5)
    assert second.difference is not None
    assert second.difference.value == pytest.approx(sum(margin) / 2 - sum(mse) / 2)
    assert second.difference.interval.high < 0
    # The draws of single runs, averaged; the interval is the widened one of all evaluations.
    seed = set_seed(FAST.seed, "demo")
    drawn = np.mean(
        [
            bootstrap_draws(srcc, p.scores[:, 0], p.mos, draws=200, seed=seed)
            for p in settings["reward=mse"].values()
        ],
        axis=0,
    )
    assert first.mean.interval == interval_of_draws(drawn, 60, 0.95)
    low, high = np.percentile(drawn, [2.5, 97.5])
    assert first.mean.interval.high - first.mean.interval.low > high - low
    (table,) = settings_tables([found], FAST)
    assert [row[:2] for row in table.rows] == [("reward=mse", "2"), ("reward=margin", "2")]
    assert json.loads(json.dumps(settings_values([found])))["demo"]["images"] == 60


def test_images_without_a_score_count_for_no_setting() -> None:
    settings = sweep_predictions()
    broken = settings["reward=margin"]["2"].scores.copy()
    broken[3] = np.nan
    mos = settings["reward=margin"]["2"].mos
    settings["reward=margin"]["2"] = predictions(broken, mos)
    (found,) = compare_settings(settings, FAST)
    assert (found.images, found.excluded) == (59, 1)


def test_runs_on_other_images_are_refused() -> None:
    settings = sweep_predictions()
    settings["reward=margin"]["2"] = settings["reward=margin"]["2"].rows(np.arange(50))
    with pytest.raises(DataError, match="reward=margin, seed 2 evaluated different images"):
        compare_settings(settings, FAST)


def write_sweep(folder: Path, settings: Mapping[str, Mapping[str, Predictions]]) -> None:
    jobs = {
        f"{name}{seed}": {"reward": name.removeprefix("reward="), "seed": seed}
        for name, by_seed in settings.items()
        for seed in by_seed
    }
    sweep = SweepFolder(folder)
    sweep.write(SweepRecord("k", "train.py -m", {}, {"reward": "mse,margin", "seed": "1,2"}, jobs))
    # Attempts in another order than the jobs, as resumed sweeps have them.
    for number, (name, swept) in enumerate(reversed(jobs.items())):
        attempt = Attempt(number, folder / str(number), SweepJob(name, (), swept))
        sweep.prepare(attempt)
        found = settings[f"reward={swept['reward']}"][swept["seed"]]
        (attempt.folder / "checkpoints").mkdir()
        for step, kept in ((0, predictions(found.mos[::-1].copy(), found.mos)), (8, found)):
            write_predictions(attempt.folder / "checkpoints", step, kept)
        write_json(attempt.folder / OUTCOME_FILE, {"status": "FINISHED"})


@pytest.mark.medium
def test_eval_compares_a_sweep(run: Command, tmp_path: Path) -> None:  # noqa: F811
    write_sweep(tmp_path / "sweep", sweep_predictions())
    found = run(main, "compare=[sweep]", "logger=none", "run_dir=out")
    assert found.code == 0, found.err
    values = json.loads((tmp_path / "out/metrics.json").read_text())["demo"]
    assert list(values["settings"]) == ["reward=mse", "reward=margin"]
    assert values["settings"]["reward=mse"]["srcc"]["value"] > 0.8
    assert values["settings"]["reward=margin"]["difference"]["high"] < 0
    assert (tmp_path / "out/tables/settings_demo.csv").is_file()
    assert (tmp_path / "out/plots/comparison_demo.png").is_file()
    # A job without test predictions, then a sweep without a finished job.
    for file in (tmp_path / "sweep/0/checkpoints").glob("*_00000008.ckpt*"):
        file.unlink()
    found = run(main, "compare=[sweep]", "logger=none", "run_dir=other")
    assert (found.code, found.err.count("\n")) == (2, 1)
    assert "sweep/0 keeps no test predictions" in found.err
    for file in (tmp_path / "sweep").glob(f"*/{OUTCOME_FILE}"):
        file.unlink()
    found = run(main, "compare=[sweep]", "logger=none", "run_dir=other")
    assert (found.code, found.err.count("\n")) == (2, 1)
    assert "no job of the sweep" in found.err


@pytest.mark.medium
def test_one_setting_is_nothing_to_compare(run: Command, tmp_path: Path) -> None:  # noqa: F811
    settings = sweep_predictions()
    del settings["reward=margin"]
    write_sweep(tmp_path / "sweep", settings)
    found = run(main, "compare=[sweep]", "logger=none", "run_dir=out")
    assert found.code == 2
    assert "differ in nothing but the seed" in found.err
