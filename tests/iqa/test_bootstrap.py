"""Bootstrap draws against plain resampling, and the coverage of the intervals."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest
from scipy import stats

from vqr1.iqa.bootstrap import (
    Interval,
    Statistic,
    Units,
    bootstrap_draws,
    interval_of_draws,
    paired_gain_interval,
    resample_counts,
)
from vqr1.iqa.correlation import FloatArray, krcc, plcc, srcc


def noisy_pair(n: int, rho: float, rng: np.random.Generator) -> tuple[FloatArray, FloatArray]:
    """n pairs of a bivariate normal distribution with correlation rho."""
    x = rng.normal(size=n)
    return x, rho * x + math.sqrt(1 - rho**2) * rng.normal(size=n)


def true_srcc(rho: float) -> float:
    """Spearman's correlation of a bivariate normal distribution (Pearson 1907)."""
    return 6 / math.pi * math.asin(rho / 2)


def bootstrap_interval(
    statistic: Statistic,
    x: FloatArray,
    y: FloatArray,
    clusters: list[str] | None = None,
    draws: int = 1000,
    seed: int = 0,
) -> Interval:
    """The 95 % interval of a metric, as evaluations put it together from its parts."""
    drawn = bootstrap_draws(statistic, x, y, clusters=clusters, draws=draws, seed=seed)
    return interval_of_draws(drawn, Units.of(len(x), clusters).count, 0.95)


@pytest.mark.parametrize("clustered", [False, True])
@pytest.mark.parametrize(
    ("metric", "reference"),
    [
        (srcc, lambda x, y: stats.spearmanr(x, y).statistic),
        (plcc, lambda x, y: stats.pearsonr(x, y).statistic),
        (krcc, lambda x, y: stats.kendalltau(x, y).statistic),
    ],
)
def test_draws_equal_plain_resampling(metric, reference, clustered) -> None:  # type: ignore[no-untyped-def]
    rng = np.random.default_rng(1)
    x, y = noisy_pair(40, 0.7, rng)
    x, y = np.round(x, 1), np.round(y, 0)  # ties in both
    clusters = [f"I{i % 9}" for i in range(40)] if clustered else None
    units = Units.of(40, clusters)
    counts = np.concatenate(list(resample_counts(units, 50, seed=3))).astype(int)
    expected = [reference(np.repeat(x, row), np.repeat(y, row)) for row in counts]
    drawn = bootstrap_draws(metric, x, y, clusters=clusters, draws=50, seed=3)
    np.testing.assert_allclose(drawn, expected, atol=1e-9)


def test_a_draw_takes_whole_references() -> None:
    clusters = ["a", "b", "a", "c", "b", "a"]
    for row in np.concatenate(list(resample_counts(Units.of(6, clusters), 200, seed=0))):
        assert row[0] == row[2] == row[5]
        assert row[1] == row[4]
        assert row[0] + row[1] + row[3] == 3


def test_blocks_do_not_change_the_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = noisy_pair(60, 0.5, np.random.default_rng(0))
    whole = bootstrap_draws(srcc, x, y, draws=33, seed=5)
    monkeypatch.setattr("vqr1.iqa.bootstrap._CHUNK", 60 * 4)
    np.testing.assert_array_equal(bootstrap_draws(srcc, x, y, draws=33, seed=5), whole)


def test_the_seed_decides_the_draws() -> None:
    x, y = noisy_pair(60, 0.5, np.random.default_rng(0))
    first = bootstrap_draws(srcc, x, y, draws=20, seed=5)
    np.testing.assert_array_equal(bootstrap_draws(srcc, x, y, draws=20, seed=5), first)
    assert not np.array_equal(bootstrap_draws(srcc, x, y, draws=20, seed=6), first)


def test_expanded_percentiles_by_hand() -> None:
    values = np.arange(1001.0)  # its q-quantile is 1000 q
    # u = 10: t(.975, 9) = 2.262157, times sqrt(10/9) = 2.384524, Phi(-2.384524) = 0.008551.
    interval = interval_of_draws(values, units=10)
    assert interval.low == pytest.approx(8.551, abs=2e-3)
    assert interval.high == pytest.approx(1000 - 8.551, abs=2e-3)
    # With very many units they are the plain percentiles.
    assert interval_of_draws(values, units=10**7).low == pytest.approx(25.0, abs=1e-2)


def test_no_interval_and_why() -> None:
    x, y = noisy_pair(20, 0.5, np.random.default_rng(0))
    interval = paired_gain_interval(srcc, x, np.ones(20), y)
    assert math.isnan(interval.low)
    assert interval.reason == "all predictions are equal"
    few = bootstrap_interval(srcc, x, y, clusters=["a", "b"] * 10)
    assert math.isnan(few.high)
    assert few.reason == "2 units to resample, at least 5 are needed"
    # 5 of 6 predictions are equal: (5/6)^6 = 33 % of the draws are constant.
    lost = bootstrap_interval(srcc, np.array([1.0, 1, 1, 1, 1, 2]), y[:6])
    assert math.isnan(lost.low)
    assert lost.reason is not None
    assert "does not exist in" in lost.reason


def test_a_constant_draw_is_nan_and_not_a_number() -> None:
    pred = np.array([0.1, 0.1, 0.1, 0.1, 0.1, 0.3])
    target = np.arange(6.0)
    for metric in (srcc, plcc):
        drawn = bootstrap_draws(metric, pred, target, draws=200, seed=0)
        counts = np.concatenate(list(resample_counts(Units.of(6, None), 200, seed=0)))
        constant = (counts[:, 5] == 0) | (counts[:, 5] == 6)
        single = (counts > 0).sum(axis=1) == 1
        np.testing.assert_array_equal(np.isnan(drawn), constant | single)


@pytest.mark.medium
def test_ten_thousand_images_in_seconds() -> None:
    x, y = noisy_pair(10_000, 0.8, np.random.default_rng(0))
    start = time.process_time()
    bootstrap_interval(srcc, np.round(x, 2), y, draws=1000)
    assert time.process_time() - start < 10


def test_paired_gain_is_narrower_than_unpaired() -> None:
    rng = np.random.default_rng(0)
    target = rng.normal(size=300)
    before = target + rng.normal(size=300)
    after = before + 0.3 * (target - before)  # the same errors, smaller
    gain = paired_gain_interval(srcc, before, after, target)
    assert gain.low > 0
    assert srcc(after, target) - srcc(before, target) in gain
    alone = bootstrap_interval(srcc, after, target)
    assert gain.high - gain.low < alone.high - alone.low


def test_gain_of_a_predictor_over_itself_is_zero() -> None:
    x, y = noisy_pair(50, 0.5, np.random.default_rng(0))
    interval = paired_gain_interval(srcc, x, x, y)
    assert (interval.low, interval.high) == (0.0, 0.0)


@pytest.mark.slow
@pytest.mark.parametrize(("n", "rho"), [(80, 0.8), (300, 0.6)])
def test_coverage_over_images(n: int, rho: float) -> None:
    """95 % intervals hold the true correlation in 93 to 97 of 100 simulated sets.

    1500 sets: the standard error of the share is 0.56 %.
    """
    rng = np.random.default_rng(7)
    hits = 0
    for trial in range(1500):
        x, y = noisy_pair(n, rho, rng)
        hits += true_srcc(rho) in bootstrap_interval(srcc, x, y, draws=500, seed=trial)
    assert 0.93 <= hits / 1500 <= 0.97


@pytest.mark.slow
@pytest.mark.parametrize("references", [10, 25])
def test_coverage_over_references(references: int) -> None:
    """The same with images that share references: both vectors have a reference effect.

    Intervals over images would be too narrow here (asserted as a control, with every fifth set).
    """
    rng = np.random.default_rng(8)
    rho, share, each = 0.8, 0.3, 12
    labels = np.repeat(np.arange(references), each)
    hits = hits_images = 0
    for trial in range(1500):
        effect = noisy_pair(references, rho, rng)
        own = noisy_pair(references * each, rho, rng)
        x, y = (
            math.sqrt(share) * effect[i][labels] + math.sqrt(1 - share) * own[i] for i in (0, 1)
        )
        options = {"draws": 500, "seed": trial}
        hits += true_srcc(rho) in bootstrap_interval(
            srcc, x, y, clusters=labels.tolist(), **options
        )
        if trial % 5 == 0:
            hits_images += true_srcc(rho) in bootstrap_interval(srcc, x, y, **options)
    assert 0.93 <= hits / 1500 <= 0.97
    assert hits_images / 300 < 0.90
