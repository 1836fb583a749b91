"""Metrics of a set: hand arithmetic, scipy, and the real SRIQA-Bench labels."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from tests.evaluation.builders import predictions
from vqr1.evaluation.compare import EvaluatedRun, compare_runs
from vqr1.evaluation.dataset_averages import set_means
from vqr1.evaluation.metric_options import MetricOptions
from vqr1.evaluation.set_metrics import set_metrics
from vqr1.evaluation.summary import paired_gain, set_seed, summarise
from vqr1.iqa.bootstrap import bootstrap_draws, interval_of_draws, paired_gain_interval
from vqr1.iqa.correlation import srcc
from vqr1.iqa.logistic import fit_logistic

FAST = MetricOptions(draws=100)


def noisy(n: int = 120, seed: int = 0, noise: float = 0.6) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    mos = rng.uniform(1, 5, n)
    return mos + noise * rng.normal(size=n), mos


def test_equals_scipy() -> None:
    scores, mos = noisy()
    found = set_metrics(predictions(scores, mos), FAST)
    assert found.srcc.value == pytest.approx(stats.spearmanr(scores, mos).statistic, abs=1e-6)
    assert found.metrics["krcc"].value == pytest.approx(
        stats.kendalltau(scores, mos).statistic, abs=1e-6
    )
    assert found.metrics["plcc"].value == pytest.approx(
        stats.pearsonr(scores, mos).statistic, abs=1e-6
    )
    for measured in (*found.metrics.values(), found.fits["logistic4"].metrics["plcc_logistic4"]):
        assert measured.value in measured.interval
    fitted = fit_logistic(scores, mos)(scores)
    assert found.fits["logistic4"].metrics["rmse_logistic4"].value == pytest.approx(
        math.sqrt(np.mean((fitted - mos) ** 2)), rel=1e-6
    )


def test_per_reference_means_by_hand() -> None:
    # Reference A: ranks right, 1. B: 1 3 2 against 1 2 3, 1 - 6 * 2 / 24 = .5. C: two images
    # only, D: constant scores; both excluded. Mean (1 + .5) / 2.
    scores = [1, 2, 3, 11, 13, 12, 5, 6, 7, 7, 7]
    mos = [1, 2, 3, 1, 2, 3, 1, 2, 1, 2, 3]
    references = ["A"] * 3 + ["B"] * 3 + ["C"] * 2 + ["D"] * 3
    found = set_metrics(predictions(scores, mos, references=references), FAST)
    assert found.per_reference is not None
    assert found.per_reference.srcc.value == pytest.approx(0.75)
    assert (found.per_reference.references, found.per_reference.excluded) == (2, 2)


@pytest.mark.medium
def test_sriqa_labels_need_per_reference_means(shared: Path) -> None:
    """Labels scaled inside each group of 11: a perfect ranker of each group fails globally."""
    lines = (shared / "labels/vqr1_release/SRIQA-Bench_test_all.txt").read_text().splitlines()
    rows = [line.split() for line in lines]
    references = [row[0] for row in rows]
    mos = np.array([float(row[-1]) for row in rows])
    rng = np.random.default_rng(0)
    level = {name: rng.normal(0, 3) for name in dict.fromkeys(references)}
    # A score that knows the true (unscaled) level of each group as well.
    scores = mos / 100 + np.array([level[name] for name in references])
    scores += 0.1 * rng.normal(size=len(mos))
    found = set_metrics(predictions(scores, mos, references=references), FAST)
    by_hand = [
        stats.spearmanr(scores[members], mos[members]).statistic
        for name in dict.fromkeys(references)
        if len(members := [i for i, other in enumerate(references) if other == name]) >= 3
    ]
    assert found.per_reference is not None
    assert found.per_reference.srcc.value == pytest.approx(np.mean(by_hand), abs=1e-9)
    assert found.per_reference.srcc.value > 0.9
    assert found.srcc.value < 0.5


def test_distortion_rows_worst_first() -> None:
    scores = [1, 2, 3, 3, 2, 1, 1, 3, 2, 9]
    mos = [1, 2, 3, 1, 2, 3, 1, 2, 3, 1]
    names = ["blur"] * 3 + ["noise"] * 3 + ["jpeg"] * 3 + ["once"]
    found = set_metrics(predictions(scores, mos, distortions=names), FAST)
    assert [row.name for row in found.distortions] == ["noise", "jpeg", "blur", "once"]
    assert [row.srcc.value for row in found.distortions[:3]] == pytest.approx([-1, 0.5, 1])
    assert found.distortions[3].srcc.reason == "1 images, at least 3 are needed"


def test_wrong_direction_is_flagged_and_keeps_its_sign() -> None:
    scores, mos = noisy()
    found = set_metrics(predictions(-scores, mos), FAST)
    assert found.srcc.value < -0.5
    assert math.isnan(found.fits["logistic4"].metrics["plcc_logistic4"].value)
    assert any("predictions fall as MOS rise" in text for text in found.warnings)


@pytest.mark.parametrize(
    ("scores", "mos", "reason"),
    [
        ([1.0, 2], [1.0, 2], "2 images, at least 3 are needed"),
        ([1.0, 2, 3], [2.0, 2, 2], "all MOS are equal"),
        ([np.nan] * 4, [1.0, 2, 3, 4], "0 images, at least 3 are needed"),
    ],
)
def test_no_metrics_and_why(scores: list[float], mos: list[float], reason: str) -> None:
    found = set_metrics(predictions(scores, mos), FAST)
    assert math.isnan(found.srcc.value)
    assert found.srcc.reason == reason
    assert f"no metrics: {reason}" in found.warnings


def test_few_references_fall_back_to_images_and_report_it() -> None:
    scores, mos = noisy(60)
    labels = [f"I{i % 3}" for i in range(60)]
    found = set_metrics(predictions(scores, mos, references=labels), FAST)
    assert (found.units, found.unit_count) == ("images", 60)
    assert any("3 references are too few" in text for text in found.warnings)
    asked = MetricOptions(draws=100, resample="references")
    strict = set_metrics(predictions(scores, mos, references=labels), asked)
    assert math.isnan(strict.srcc.interval.low)


def test_calibration_finds_a_standard_deviation_that_predicts_error() -> None:
    rng = np.random.default_rng(1)
    mos = rng.uniform(1, 5, 400)
    sigma = rng.uniform(0.05, 1.5, 400)
    answers = mos[:, None] + sigma[:, None] * rng.normal(size=(400, 6))
    found = set_metrics(predictions(answers, mos), MetricOptions(draws=0)).calibration
    assert found.srcc.value > 0.2
    assert len(found.bins) == 10
    assert sum(part.images for part in found.bins) == 400
    assert found.bins[-1].rmse > 2 * found.bins[0].rmse
    single = set_metrics(predictions(answers[:, :1], mos), FAST).calibration
    assert single.srcc.reason == "no image has two valid answers"


@pytest.mark.medium
def test_means_over_sets_by_hand() -> None:
    sets = [
        set_metrics(predictions(*noisy(60, seed=1), dataset="a"), FAST),
        set_metrics(predictions(*noisy(180, seed=2, noise=1.5), dataset="b"), FAST),
    ]
    means = set_means(sets, FAST)
    a, b = (metrics.srcc.value for metrics in sets)
    assert means.plain["srcc"].value == pytest.approx((a + b) / 2)
    assert means.weighted["srcc"].value == pytest.approx((60 * a + 180 * b) / 240)
    assert means.plain["srcc"].value in means.plain["srcc"].interval
    broken = set_metrics(predictions([1.0] * 9, range(9), dataset="c"), FAST)
    none = set_means([*sets, broken], FAST).plain["srcc"]
    assert math.isnan(none.value)
    assert none.reason == "c: all predictions are equal"


@pytest.mark.medium
@pytest.mark.parametrize(("references", "units"), [(4, "images"), (5, "references")])
def test_one_rule_states_what_every_bootstrap_draws(references: int, units: str) -> None:
    scores, mos = noisy(40)
    names = [f"I{i % references}" for i in range(40)]
    part = predictions(scores, mos, references=names)
    expected = interval_of_draws(
        bootstrap_draws(
            srcc,
            scores,
            mos,
            clusters=names if units == "references" else None,
            draws=100,
            seed=set_seed(0, "demo"),
        ),
        references if units == "references" else 40,
    )
    reported = set_metrics(part, FAST)
    assert (reported.units, reported.srcc.interval) == (units, expected)
    assert summarise(part, draws=100).metrics["srcc"].interval == expected
    other = predictions(scores + np.sin(np.arange(40)), mos, references=names)
    runs = [EvaluatedRun("a", part), EvaluatedRun("b", other)]
    assert compare_runs(runs, FAST)[0].units == units
    gain = paired_gain(part, other, draws=100, seed=3)
    assert gain.interval == paired_gain_interval(
        srcc,
        scores,
        other.scores[:, 0],
        mos,
        clusters=names if units == "references" else None,
        draws=100,
        seed=3,
    )


def test_images_that_were_decoded_smaller_are_counted() -> None:
    rows = predictions([1.0, 2.0, 3.0, 4.0], [1.0, 2.0, 4.0, 3.0])
    rows = replace(rows, decoded_at=(None, "6000x5000", None, "600x500"))
    (warning,) = set_metrics(rows, FAST).warnings
    assert warning.startswith("2 of 4 images have too many pixels, were decoded smaller")
