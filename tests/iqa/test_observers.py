"""Statistics of pairs and observers against other computations."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from tests.cli.test_configs import train_config
from vqr1.errors import ConfigError
from vqr1.evaluation.metrics import MetricInputs, metrics_of
from vqr1.iqa import observers


def example(n: int = 40, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    mos = np.round(rng.uniform(1, 5, n), 1)
    scores = np.round(mos + rng.normal(0, 0.6, n), 1)
    return scores, mos, rng.uniform(0.3, 0.9, n)


def test_pair_accuracy_equals_counting() -> None:
    scores, mos, _ = example()
    right = total = 0.0
    for i in range(len(mos)):
        for j in range(i):
            if mos[i] != mos[j]:
                total += 1
                same = np.sign(scores[i] - scores[j]) == np.sign(mos[i] - mos[j])
                right += 0.5 if scores[i] == scores[j] else float(same)
    assert observers.pair_accuracy(scores, mos).value == pytest.approx(right / total, abs=1e-12)
    somers = stats.somersd(mos, scores).statistic
    assert observers.pair_accuracy(scores, mos).value == pytest.approx((1 + somers) / 2)
    assert observers.pair_accuracy(mos, mos).value == 1.0
    assert observers.pair_accuracy(-mos, mos).value == pytest.approx(0.0, abs=1e-12)
    assert math.isnan(observers.pair_accuracy(scores[:2], mos[:2]).value)


def test_krasula_equals_counting_pairs_of_pairs() -> None:
    scores, mos, std = example(20)
    different, similar, better = [], [], []
    for i in range(len(mos)):
        for j in range(i):
            z = abs(mos[i] - mos[j]) / math.sqrt((std[i] ** 2 + std[j] ** 2) / 15)
            gap = scores[i] - scores[j]
            if 2 * stats.norm.sf(z) < 0.05:
                different.append(abs(gap))
                better.append(gap if mos[i] > mos[j] else -gap)
            else:
                similar.append(abs(gap))

    def wins(first: list[float], second: list[float]) -> float:
        return float(np.mean([(a > b) + 0.5 * (a == b) for a in first for b in second]))

    found = observers.different_similar(scores, mos, std, 15)
    assert found.value == pytest.approx(wins(different, similar), abs=1e-12)
    # Mann-Whitney's U is the same count.
    u = stats.mannwhitneyu(different, similar).statistic / (len(different) * len(similar))
    assert found.value == pytest.approx(u, abs=1e-12)
    found = observers.better_worse(scores, mos, std, 15)
    assert found.value == pytest.approx(wins(better, [-x for x in better]), abs=1e-12)


def test_outliers_and_residuals_of_a_known_fit() -> None:
    scores, mos, std = example(60, seed=3)
    from vqr1.iqa.logistic import fit_logistic

    errors = fit_logistic(scores, mos, "logistic4")(scores) - mos
    outliers = sum(abs(e) > 2 * s for e, s in zip(errors, std, strict=True)) / 60
    assert 0 < outliers < 1
    assert observers.outlier_ratio(scores, mos, std).value == pytest.approx(outliers)
    mean = sum(errors) / 60
    variance = sum((e - mean) ** 2 for e in errors) / 59
    expected = variance / (sum(s * s for s in std) / 60)
    assert observers.residual_f(scores, mos, std).value == pytest.approx(expected)


@pytest.mark.medium
def test_registry_gives_each_an_interval_and_names_what_is_missing() -> None:
    with pytest.raises(ConfigError) as caught:
        metrics_of(train_config("metrics=observers").metrics)
    assert [line.partition(":")[0] for line in caught.value.problems] == [
        "metrics.different_similar.observers=null", "metrics.better_worse.observers=null",
    ]  # fmt: skip
    given = train_config("metrics=observers", "metrics.different_similar.observers=15").metrics
    assert given["better_worse"].arguments == {"observers": 15}
    metrics = {m.name: m for m in metrics_of(given)}
    scores, mos, std = example(60)
    inputs = MetricInputs(scores, mos, std)
    added = [name for name in metrics if name not in ("srcc", "krcc", "plcc")]
    assert len(added) == 5
    for name in added:
        value = metrics[name].value(inputs).value
        drawn = metrics[name].draws(inputs, 60, 0)
        assert drawn.shape == (60,)
        assert drawn.min() <= value <= drawn.max(), name
        # Standard deviations are drawn with their images.
        assert metrics[name].draws(inputs, 60, 0).tolist() == drawn.tolist()
    assert not metrics["outlier_ratio"].higher_is_better
    without = metrics["residual_f"].value(MetricInputs.of(scores, mos))
    assert without.reason == "no standard deviations of the MOS in the labels"
