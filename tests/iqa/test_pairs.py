"""Comparison of uncertain scores against hand-computed and independently computed values."""

from __future__ import annotations

import math
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from vqr1.iqa.pairs import (
    PairOutcomes,
    calibration_error,
    fit_comparison,
    pair_outcomes,
    preference_blocks,
    preference_matrix,
    rank_intervals,
    ranks_of,
    reliability,
    win_rates,
)


def phi(z: float) -> float:
    return 0.5 * math.erfc(-z / math.sqrt(2))


def test_probability_by_hand() -> None:
    # (3 - 2) / sqrt(.36 + .64) = 1, and Phi(1) = .8413447; the third is certain and equal to a.
    p = preference_matrix(np.array([3.0, 2.0, 3.0]), np.array([0.6, 0.8, 0.0]), gamma=1e-12)
    assert p[0, 1] == pytest.approx(0.8413447, abs=1e-7)
    assert p[0, 2] == 0.5
    assert np.diag(p).tolist() == [0.5] * 3
    # Twice the standard deviation: Phi(1/2).
    wide = preference_matrix(np.array([3.0, 2.0]), np.array([0.6, 0.8]), std_scale=2, gamma=1e-12)
    assert wide[0, 1] == pytest.approx(phi(0.5))
    # Without any standard deviation gamma alone decides: (3.001 - 3) / sqrt(1e-6) = 1.
    certain = preference_matrix(np.array([3.001, 3.0]), np.zeros(2), gamma=1e-6)
    assert certain[0, 1] == pytest.approx(phi(1.0), abs=1e-9)


@given(
    arrays(np.float64, 7, elements=st.floats(-100, 100)),
    arrays(np.float64, 7, elements=st.floats(0, 10)),
    st.floats(1e-3, 1e3),
)
def test_antisymmetric(mean: np.ndarray, std: np.ndarray, scale: float) -> None:
    p = preference_matrix(mean, std, std_scale=scale)
    assert np.abs(p + p.T - 1).max() <= 1e-12
    assert ((p >= 0) & (p <= 1)).all()
    # The more probable of two is the one with the higher mean.
    assert ((p > 0.5) <= (mean[:, None] > mean[None, :])).all()


def test_rows_and_win_rates_are_the_matrix() -> None:
    rng = np.random.default_rng(0)
    mean, std = rng.uniform(1, 5, 1500), rng.uniform(0, 1, 1500)
    p = preference_matrix(mean, std)
    assert np.array_equal(preference_matrix(mean, std, rows=slice(3, 9)), p[3:9])
    np.fill_diagonal(p, 0)
    np.testing.assert_allclose(win_rates(mean, std), p.sum(axis=1) / 1499, atol=1e-12)
    assert np.isnan(win_rates(mean[:1], std[:1])).all()


def test_rank_intervals() -> None:
    # Far apart and certain: one rank each. Two equal ones between them share ranks 2 and 3.
    mean, std = np.array([1.0, 3.0, 5.0, 3.0]), np.array([0.01, 0.3, 0.01, 0.3])
    low, high = rank_intervals(mean, std, seed=1)
    assert low.tolist() == [4, 2, 1, 2]
    assert high.tolist() == [4, 3, 1, 3]
    # Rank 1 of two has the probability P(1, 0): above 2.5 % it is inside the interval of 95 %.
    for gap, lowest in ((1.8, 1), (2.2, 2)):  # Phi(-1.8) = .036, Phi(-2.2) = .014
        low, _ = rank_intervals(np.array([0.0, gap]), np.full(2, math.sqrt(0.5)), draws=20000)
        assert low[0] == lowest


@pytest.mark.parametrize(("draws", "level"), [(1, 0.95), (63, 0.9), (64, 0.5), (500, 0.95)])
def test_rank_intervals_are_quantiles_of_all_draws(draws: int, level: float) -> None:
    mean, std = np.linspace(1, 5, 9), np.full(9, 1.0)
    rng = np.random.default_rng(3)
    qualities = mean + np.sqrt(1.0 + 0.5) * rng.standard_normal((draws, 9))
    ranks = np.argsort(np.argsort(-qualities, axis=1), axis=1) + 1
    found = rank_intervals(mean, std, gamma=1.0, level=level, draws=draws, seed=3)
    for ends, share in zip(found, ((1 - level) / 2, (1 + level) / 2), strict=True):
        assert ends.tolist() == np.quantile(ranks, share, axis=0, method="inverted_cdf").tolist()


def test_comparing_many_images_holds_neither_all_pairs_nor_all_draws() -> None:
    n = 1500
    mean, std = np.random.default_rng(0).uniform(1, 5, n), np.full(n, 0.5)
    assert np.array_equal(
        np.concatenate(list(preference_blocks(mean, std))), preference_matrix(mean, std)
    )
    tracemalloc.start()
    for work, most in (
        # 2^20 of 2.25 million pairs: the probabilities and three steps before them in float64.
        (lambda: win_rates(mean, std), 4.5 * 2**20 * 8),
        # 64 of 500 draws and the 26 that lie in the tails, with their copies, in int32.
        (lambda: rank_intervals(mean, std, draws=500), 5 * (64 + 26) * n * 4),
    ):
        tracemalloc.reset_peak()
        work()
        assert tracemalloc.get_traced_memory()[1] < most
    tracemalloc.stop()


def test_ranks_share() -> None:
    assert ranks_of(np.array([2.0, 5.0, 2.0, 1.0])).tolist() == [2, 1, 2, 4]


def test_pairs_of_known_order() -> None:
    pairs = pair_outcomes(
        np.array([1.0, 2.0, 4.0]), np.array([0.1, 0.2, 0.3]), np.array([5.0, 5.0, 1.0])
    )
    # (0, 1) has equal MOS; (0, 2) and (1, 2) are given wrongly.
    assert pairs.difference.tolist() == [-3.0, -2.0]
    assert pairs.variance.tolist() == pytest.approx([0.1, 0.13])
    assert pairs.won.tolist() == [1.0, 1.0]


def test_log_loss_by_hand() -> None:
    pairs = PairOutcomes(np.array([1.0, -1.0]), np.array([1.0, 1.0]), np.array([1.0, 1.0]))
    expected = -(math.log(phi(1)) + math.log(phi(-1))) / 2
    assert pairs.log_loss(gamma=1e-12) == pytest.approx(expected, abs=1e-9)


def test_what_is_fitted_is_what_the_data_has() -> None:
    rng = np.random.default_rng(3)
    difference, variance = rng.normal(0, 1.5, 40000), rng.uniform(0, 0.5, 40000)
    # Each image differs from its mean by 2.5 sigma, and a pair by a variance of 0.2 beside.
    truth = difference + np.sqrt(2.5**2 * variance + 0.2) * rng.standard_normal(40000)
    pairs = PairOutcomes(difference, variance, (truth > 0).astype(float))
    scale, gamma = fit_comparison(pairs)
    assert scale == pytest.approx(2.5, rel=0.05)
    assert gamma == pytest.approx(0.2, rel=0.3)
    assert pairs.log_loss(scale, gamma) < min(
        pairs.log_loss(scale * f, gamma * g) for f in (0.9, 1.1) for g in (0.5, 2.0)
    )
    before = calibration_error(reliability(pairs.probabilities(), pairs.won))
    after = calibration_error(reliability(pairs.probabilities(scale, gamma), pairs.won))
    assert after < 0.01 < before


def test_reliability_by_hand() -> None:
    # Both directions: .92 won and lost, .08 lost and won; and .55 won with .45 lost.
    curve = reliability(np.array([0.92, 0.08, 0.55]), np.array([1.0, 1.0, 1.0]), bins=10)
    assert [(b.pairs, b.observed) for b in curve] == [(2, 0.5), (1, 0.0), (1, 1.0), (2, 0.5)]
    assert [b.predicted for b in curve] == pytest.approx([0.08, 0.45, 0.55, 0.92])
    # (2 * .42 + .45 + .45 + 2 * .42) / 6
    assert calibration_error(curve) == pytest.approx(2.58 / 6)
