"""Stated preferences: votes, accuracy, cycles, likelihood and fitted scores against brute force."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.stats import norm

from vqr1.iqa import preferences
from vqr1.iqa.pairs import PairOutcomes
from vqr1.iqa.preference_fit import PRIOR, fit_scores
from vqr1.iqa.preferences import (
    StatedPairs,
    TieRule,
    count_triples,
    groups_of,
    pair_credits,
)


def stated(rows: list[tuple[int, int, float, float, float]], **rule: Any) -> StatedPairs:
    columns = np.array(rows, dtype=float).T.reshape(5, -1)
    first, second = columns[:2].astype(np.int64)
    return StatedPairs.gather(first, second, *columns[2:], rule=TieRule(**rule))


def drawn(n: int, m: int, seed: int = 0) -> StatedPairs:
    rng = np.random.default_rng(seed)
    every = np.array(list(itertools.combinations(range(n), 2)))
    chosen = every[rng.permutation(len(every))[:m]]
    votes = rng.integers(0, 4, size=(3, m)) + np.array([[1], [0], [0]])
    return StatedPairs.gather(chosen[:, 1], chosen[:, 0], *votes.astype(float))


def test_votes_of_a_pair_are_added_whatever_its_direction() -> None:
    # 4 over 1: one vote; 1 over 4: one vote and one for equal. p(1, 4) = (1 + 1/2) / 3.
    pairs = stated([(4, 1, 1, 0, 0), (1, 4, 1, 0, 1), (0, 4, 0.25, 0.75, 0)])
    assert pairs.first.tolist() == [0, 1]
    assert pairs.second.tolist() == [4, 4]
    assert pairs.preference.tolist() == [0.25, 0.5]
    assert pairs.majority.tolist() == [-1, 0]
    block = pairs.block(np.array([4, 1, 0, 4]))
    nan = math.nan
    expected = [[nan, 0.5, 0.75, nan], [0.5, nan, nan, 0.5], [0.25, nan, nan, 0.25]]
    np.testing.assert_array_equal(block, [*expected, [nan, 0.5, 0.75, nan]])
    # Row 1 leaves the table, rows 0 and 4 change places.
    other = pairs.renumbered(np.array([7, -1, -1, -1, 2]))
    assert (other.first.tolist(), other.second.tolist()) == ([2], [7])
    assert other.preference.tolist() == [0.75]
    assert pairs.within([1, 4, 5]).first.tolist() == [1]


@pytest.mark.parametrize("human", ["half", "exclude"])
def test_credits_by_hand(human: Any) -> None:
    rows = [(0, 1, 1.0, 0, 0), (0, 2, 0, 1.0, 0), (0, 3, 0, 0, 1.0), (1, 2, 1.0, 1.0, 0),
            (1, 3, 1.0, 0, 0)]  # fmt: skip
    pairs = stated(rows, threshold=0.1, human=human)
    # right; wrong; a predicted difference of an equal pair; equal predicted right; equal, not so.
    credit, counted = pair_credits(np.array([0.2, 0.2, -0.3, 0.1, -0.1]), pairs)
    assert credit.tolist() == [1.0, 0.0, 0.5, 1.0, 0.5]
    assert counted.tolist() == [True, True, human == "half", human == "half", True]


@pytest.mark.parametrize(("n", "m", "dense"), [(12, 66, 100), (12, 30, 100), (14, 60, 0)])
def test_cycles_against_all_triples(
    n: int, m: int, dense: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preferences, "DENSE_IMAGES", dense)
    pairs = drawn(n, m)
    beats = {}
    for i, j, sign in zip(pairs.first, pairs.second, pairs.majority, strict=True):
        if sign:
            beats[i, j], beats[j, i] = sign > 0, sign < 0
    triples = [
        t for t in itertools.combinations(range(n), 3)
        if all(two in beats for two in itertools.combinations(t, 2))
    ]  # fmt: skip
    cyclic = [(i, j, k) for i, j, k in triples if beats[i, j] == beats[j, k] == beats[k, i]]
    assert cyclic
    found = count_triples(pairs)
    assert (found.complete, found.cyclic) == (len(triples), len(cyclic))


def test_too_many_triples_are_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preferences, "DENSE_IMAGES", 5)
    monkeypatch.setattr(preferences, "_SPARSE_PATHS", 10)
    found = count_triples(drawn(12, 66))
    assert found.complete == -1
    assert "too many" in (found.reason or "")


def test_groups_and_likelihood() -> None:
    pairs = stated([(0, 5, 1, 0, 0), (5, 7, 1, 0, 0), (2, 3, 3, 1, 0)])
    rows, group = groups_of(pairs)
    assert rows.tolist() == [0, 2, 3, 5, 7]
    assert group.tolist() == [0, 1, 1, 0, 0]
    # p is 1, 3/4 and 1: log Phi(1), 3/4 log Phi(0.5) + 1/4 log Phi(-0.5), log Phi(-1).
    difference, variance = np.array([1.0, 1.0, -1.0]), np.array([1.0, 4.0, 1.0])
    halves = 0.75 * norm.logcdf(0.5) + 0.25 * norm.logcdf(-0.5)
    expected = (norm.logcdf(1) + halves + norm.logcdf(-1)) / 3
    # The pairs are in order 0-5, 2-3, 5-7.
    outcomes = PairOutcomes(difference, variance, pairs.preference)
    assert -outcomes.log_loss(gamma=0) == pytest.approx(expected)


@pytest.mark.parametrize("model", ["thurstone", "bradley_terry"])
def test_fit_is_the_maximum_that_another_optimiser_finds(model: Any) -> None:
    n, pairs = 7, drawn(7, 18, seed=3)

    def loss(s: np.ndarray) -> float:
        total = -0.5 * PRIOR * float(s @ s)
        for i, j, p, votes in zip(
            pairs.first, pairs.second, pairs.preference, pairs.votes, strict=True
        ):
            d = s[i] - s[j]
            chance = norm.cdf(d) if model == "thurstone" else 1 / (1 + math.exp(-d))
            total += votes * (p * math.log(chance) + (1 - p) * math.log(1 - chance))
        return -total

    found = fit_scores(pairs, n, model)
    reference = minimize(loss, np.zeros(n), method="BFGS", options={"gtol": 1e-8}).x
    np.testing.assert_allclose(found, reference, atol=2e-4)
    assert abs(found.sum()) < 1e-6


def test_fit_recovers_simulated_quality_and_bounds_perfect_winners() -> None:
    rng = np.random.default_rng(5)
    quality = rng.normal(size=60)
    i, j = np.triu_indices(60, k=1)
    won = rng.binomial(20, norm.cdf(quality[i] - quality[j])).astype(float)
    pairs = StatedPairs.gather(i, j, won, 20 - won, np.zeros(len(i)))
    fitted = fit_scores(pairs, 60)
    assert np.abs(fitted - (quality - quality.mean())).max() < 0.15
    chain = stated([(0, 1, 1, 0, 0), (1, 2, 1, 0, 0), (4, 5, 1, 0, 0)])
    scores = fit_scores(chain, 6, "bradley_terry")
    assert scores[0] > scores[1] > scores[2] > -20
    # Image 3 has no pair; 4 and 5 are a group of their own, about the prior's mean.
    assert scores[3] == 0
    assert scores[4] == pytest.approx(-scores[5], abs=1e-6)
