"""Correlations against scipy, hand arithmetic and the cases where they do not exist."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from vqr1.iqa.correlation import (
    krcc,
    krcc_value,
    plcc,
    plcc_value,
    srcc,
    srcc_value,
)

METRICS = (srcc, plcc, krcc)


def test_hand_computed() -> None:
    pred, target = [1.0, 2.0, 4.0, 3.0], [10.0, 20.0, 30.0, 60.0]
    # Ranks 1 2 4 3 against 1 2 3 4: sum of squared differences 2, 1 - 6*2/(4*15) = 0.8.
    assert srcc(pred, target) == pytest.approx(0.8, abs=1e-12)
    # 6 pairs, one discordant: (5 - 1) / 6.
    assert krcc(pred, target) == pytest.approx(4 / 6, abs=1e-12)
    # Deviations -1.5 -.5 1.5 .5 and -20 -10 0 30: 30 + 5 + 0 + 15 = 50;
    # squares 5 and 400 + 100 + 0 + 900 = 1400; 50 / sqrt(7000).
    assert plcc(pred, target) == pytest.approx(50 / math.sqrt(7000), abs=1e-12)


def test_hand_computed_with_a_tie() -> None:
    pred, target = [1.0, 1.0, 2.0], [1.0, 2.0, 3.0]
    # Mid-ranks 1.5 1.5 3 against 1 2 3: deviations -.5 -.5 1 and -1 0 1, 1.5 / sqrt(1.5 * 2).
    assert srcc(pred, target) == pytest.approx(1.5 / math.sqrt(3), abs=1e-12)
    # Two concordant pairs, one tied in pred: 2 / sqrt((3 - 1) * 3).
    assert krcc(pred, target) == pytest.approx(2 / math.sqrt(6), abs=1e-12)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.floats(-1e6, 1e6, allow_subnormal=False),
            st.integers(-4, 4),
        ),
        min_size=3,
        max_size=60,
    )
)
def test_equals_scipy(pairs: list[tuple[float, int]]) -> None:
    pred = np.array([p for p, _ in pairs])
    target = np.array([t for _, t in pairs], dtype=float)
    if np.ptp(pred) <= 1e-9 * np.abs(pred).max() or np.ptp(target) == 0:
        return
    assert srcc(pred, target) == pytest.approx(stats.spearmanr(pred, target).statistic, abs=1e-6)
    assert plcc(pred, target) == pytest.approx(stats.pearsonr(pred, target).statistic, abs=1e-6)
    assert krcc(pred, target) == pytest.approx(stats.kendalltau(pred, target).statistic, abs=1e-6)


def test_sign_is_kept() -> None:
    rising = np.arange(10.0)
    for metric in METRICS:
        assert metric(rising, -rising) == pytest.approx(-1.0)


def test_tensors_and_arrays_agree() -> None:
    generator = torch.Generator().manual_seed(0)
    pred, target = torch.rand(30, generator=generator), torch.rand(30, generator=generator)
    for metric in METRICS:
        assert metric(pred, target) == metric(pred.numpy(), target.tolist())


@pytest.mark.parametrize("metric", [srcc_value, plcc_value, krcc_value])
@pytest.mark.parametrize(
    ("pred", "target", "reason"),
    [
        ([3.0, 3.0, 3.0, 3.0], [1.0, 2.0, 3.0, 4.0], "all predictions are equal"),
        ([1.0, 2.0, 3.0, 4.0], [2.0, 2.0, 2.0, 2.0], "all MOS are equal"),
        ([0.1 + 0.2, 0.3, 0.3], [1.0, 2.0, 3.0], "all predictions are equal"),
        ([1.0, 2.0], [1.0, 2.0], "2 images, at least 3 are needed"),
        ([], [], "0 images, at least 3 are needed"),
        ([1.0, math.nan, 3.0], [1.0, 2.0, 3.0], "1 of 3 predictions are not finite numbers"),
        ([1.0, 2.0, 3.0], [1.0, math.inf, 3.0], "1 of 3 MOS are not finite numbers"),
    ],
)
def test_no_metric_and_why(metric, pred, target, reason) -> None:  # type: ignore[no-untyped-def]
    found = metric(pred, target)
    assert math.isnan(found.value)
    assert found.reason == reason


def test_wrong_shapes_are_errors() -> None:
    with pytest.raises(ValueError, match="3 predictions but 4 targets"):
        srcc([1.0, 2.0, 3.0], [1.0, 2.0, 3.0, 4.0])
    with pytest.raises(ValueError, match="one dimension"):
        plcc(np.ones((3, 2)), np.ones(3))


def test_extreme_magnitudes() -> None:
    pred = np.array([1e-200, 3e-200, 2e-200, 5e-200])
    target = np.array([1e200, 2e200, 3e200, 4e200])
    # The same metric as of 1 3 2 5 against 1 2 3 4: scale does not matter.
    expected = stats.pearsonr([1, 3, 2, 5], [1, 2, 3, 4]).statistic
    assert plcc(pred, target) == pytest.approx(expected, abs=1e-9)
