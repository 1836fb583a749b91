"""Comparisons of predictors against published examples, hand arithmetic and simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from vqr1.iqa.comparison import (
    difference_letters,
    holm,
    meng_test,
    pair_wins,
    paired_bootstrap_test,
    steiger_test,
)
from vqr1.iqa.correlation import plcc, srcc


def test_mengs_published_example() -> None:
    # Meng, Rosenthal and Rubin 1992: N = 15, .63 against -.03, predictors at -.19: Z = 1.68.
    found = meng_test(0.63, -0.03, -0.19, 15)
    assert found.z == pytest.approx(1.68, abs=0.005)
    assert found.p / 2 == pytest.approx(0.047, abs=0.001)


def test_steiger_by_hand() -> None:
    # r1 = .5, r2 = .3, r12 = .4, n = 103: mean .4, mean^2 .16;
    # psi = .4 * .68 - .08 * (.68 - .16) = .272 - .0416 = .2304; / .84^2 = .7056: .326531;
    # z = (.549306 - .309520) * sqrt(100 / (2 - .653061)) = .239786 * 8.616404 = 2.066096.
    found = steiger_test(0.5, 0.3, 0.4, 103)
    assert found.z == pytest.approx(2.0661, abs=2e-4)
    assert found.p == pytest.approx(2 * (1 - stats.norm.cdf(2.0661)), abs=1e-4)
    assert steiger_test(0.3, 0.5, 0.4, 103).z == pytest.approx(-found.z)


@pytest.mark.parametrize("test", [steiger_test, meng_test])
@pytest.mark.parametrize(
    ("r1", "r2", "r12", "n", "reason"),
    [
        (0.5, 0.4, 0.3, 3, "3 images, at least 4 are needed"),
        (math.nan, 0.4, 0.3, 50, "a correlation does not exist"),
        (1.0, 0.4, 0.3, 50, "a correlation is exactly 1 or -1"),
        (0.5, 0.5, 1.0, 50, "the two predictors agree perfectly"),
    ],
)
def test_no_test_and_why(test, r1, r2, r12, n, reason) -> None:  # type: ignore[no-untyped-def]
    found = test(r1, r2, r12, n)
    assert math.isnan(found.p)
    assert found.reason == reason


@pytest.mark.slow
def test_level_of_the_tests() -> None:
    """Predictors of equal quality are called different in about 5 of 100 simulated sets.

    1000 sets: the standard error of the share is 0.7 %.
    """
    rng = np.random.default_rng(0)
    rejected = {"steiger": 0, "meng": 0, "bootstrap": 0}
    for trial in range(1000):
        target = rng.normal(size=120)
        shared = rng.normal(size=120)
        first, second = (target + 0.5 * shared + 0.5 * rng.normal(size=120) for _ in range(2))
        r = plcc(first, target), plcc(second, target), plcc(first, second)
        rejected["steiger"] += steiger_test(*r, 120).p < 0.05
        rejected["meng"] += meng_test(*r, 120).p < 0.05
        gain = paired_bootstrap_test(srcc, first, second, target, draws=200, seed=trial)
        rejected["bootstrap"] += gain.p < 0.05
    for name, count in rejected.items():
        assert 0.03 <= count / 1000 <= 0.07, name


def test_bootstrap_test_finds_a_difference_and_its_sign() -> None:
    rng = np.random.default_rng(1)
    target = rng.normal(size=200)
    good, bad = target + 0.3 * rng.normal(size=200), target + 1.5 * rng.normal(size=200)
    found = paired_bootstrap_test(srcc, good, bad, target)
    assert found.gain.value == pytest.approx(srcc(good, target) - srcc(bad, target))
    assert found.interval.low > 0
    assert found.p < 1e-6
    same = paired_bootstrap_test(srcc, good, good, target)
    assert (same.gain.value, same.p) == (0.0, 1.0)


def test_bootstrap_test_of_a_constant_predictor() -> None:
    target = np.arange(20.0)
    found = paired_bootstrap_test(srcc, np.ones(20), target, target)
    assert found.gain.reason == "all predictions are equal"
    assert math.isnan(found.p)


def test_pair_wins_by_hand() -> None:
    # Pairs by MOS (1<2), (1<3), (2<3); the fourth image ties the third, so that one pair
    # (3, 4) does not count: (1,2) (1,3) (1,4) (2,3) (2,4) are five.
    target = [1.0, 2.0, 3.0, 3.0]
    first = [1.0, 2.0, 3.0, 0.0]  # wrong on (1,4), (2,4)
    second = [1.0, 1.0, 0.0, 4.0]  # tied on (1,2), wrong on (1,3), (2,3)
    found = pair_wins(first, second, target)
    assert found.pairs == 5
    assert found.first_only == 3  # (1,2) right against tied, (1,3), (2,3)
    assert found.second_only == 2  # (1,4), (2,4)
    assert found.first_accuracy == pytest.approx(3 / 5)
    assert found.second_accuracy == pytest.approx(2.5 / 5)
    assert found.win_rate.value == pytest.approx(3 / 5)


def test_pair_wins_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(2)
    target, first, second = rng.integers(0, 9, size=(3, 57)).astype(float)
    whole = pair_wins(first, second, target)
    monkeypatch.setattr("vqr1.iqa.comparison._BLOCK", 57 * 5)
    assert pair_wins(first, second, target) == whole
    # Kendall's tau-a over untied MOS is 2 * accuracy - 1.
    concordance = sum(
        np.sign(target[i] - target[j]) * np.sign(first[i] - first[j])
        for i in range(57)
        for j in range(i)
    )
    assert 2 * whole.first_accuracy - 1 == pytest.approx(concordance / whole.pairs)


def test_no_pair_distinguish_them() -> None:
    found = pair_wins([1.0, 2.0, 3.0], [10.0, 20.0, 30.0], [1.0, 2.0, 3.0])
    assert math.isnan(found.win_rate.value)
    assert found.win_rate.reason == "no pair of images distinguishes the two"
    assert found.first_accuracy == 1.0


def test_holm_by_hand() -> None:
    # Sorted .01 .02 .03 .5 times 4, 3, 2, 1: .04 .06 .06 .5, kept from falling.
    assert holm([0.03, 0.01, 0.5, 0.02]) == pytest.approx([0.06, 0.04, 0.5, 0.06])
    assert holm([0.04, math.nan]) == pytest.approx([0.08, math.nan], nan_ok=True)
    assert holm([]) == []


def matrix(m: int, pairs: list[tuple[int, int]]) -> np.ndarray:
    different = np.zeros((m, m), dtype=bool)
    for i, j in pairs:
        different[i, j] = different[j, i] = True
    return different


@pytest.mark.parametrize(
    ("m", "pairs", "letters"),
    [
        (3, [], ["a", "a", "a"]),
        (3, [(0, 1), (0, 2), (1, 2)], ["a", "b", "c"]),
        (3, [(0, 2)], ["a", "ab", "b"]),
        (4, [(0, 2), (0, 3), (1, 3)], ["a", "ab", "bc", "c"]),
        (1, [], ["a"]),
    ],
)
def test_letters(m: int, pairs: list[tuple[int, int]], letters: list[str]) -> None:
    assert difference_letters(matrix(m, pairs)) == letters


def test_letters_state_exactly_which_pairs_differ() -> None:
    rng = np.random.default_rng(3)
    for _ in range(50):
        m = int(rng.integers(2, 8))
        upper = np.triu(rng.random((m, m)) < 0.5, 1)
        different = upper | upper.T
        letters = difference_letters(different)
        for i in range(m):
            for j in range(m):
                if i != j:
                    shared = bool(set(letters[i]) & set(letters[j]))
                    assert shared != different[i, j]
