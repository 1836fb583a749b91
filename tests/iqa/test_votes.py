"""What votes on pairs of images state."""

from __future__ import annotations

import math

import numpy as np
import pytest

from vqr1.iqa.votes import majority_preference, order_agreement, stated_index, votes_of_scores


@pytest.mark.parametrize(
    ("text", "index"),
    [
        ("0", 0), (" 1\n", 1), ("1.", 1), ("<think>0 looks blurred</think>\n1", 1), ("2", None),
        ("01", None), ("0 or 1", None), ("the first", None), ("", None), ("<think>1", None),
        ("1.0", None), ("-1", None), ("</think>0</think>", None),
    ],
)  # fmt: skip
def test_an_index_alone_is_a_vote(text: str, index: int | None) -> None:
    assert stated_index(text) == index


def test_every_score_against_every_other() -> None:
    rng = np.random.default_rng(0)
    first = rng.integers(1, 5, 7).astype(float).tolist()
    second = rng.integers(1, 5, 4).astype(float).tolist()
    pairs = [(a, b) for a in first for b in second]
    won, lost = sum(a > b for a, b in pairs), sum(a < b for a, b in pairs)
    assert votes_of_scores(first, second) == (won, lost, 28 - won - lost)
    assert votes_of_scores([], second) == (0, 0, 0)


def test_majority_and_agreement() -> None:
    preference = majority_preference(np.array([3.0, 1.0, 2.0, 5.0]), np.array([1.0, 2.0, 2.0, 0.0]))
    assert preference.tolist() == [1.0, 0.0, 0.5, 1.0]
    mos, others = np.array([4.0, 4.0, 3.0, 2.0]), np.array([1.0, 2.0, 1.0, 2.0])
    # Right, wrong, a tie, and a pair of equal MOS that does not count: 1.5 of 3.
    assert order_agreement(preference, mos, others) == pytest.approx(0.5)
    assert math.isnan(order_agreement(preference, mos, mos))
