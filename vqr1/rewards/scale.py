"""One scale for scores and MOS, so that a reward's constants mean the same for every prompt.

    x -> 1 + 4 (x - low) / (high - low)      low, high: the range that x is given on

Scores are on `answer.score_range`, MOS on [1, 5] already (`mos_scale=minmax`) or on the set's own
scale (`mos_scale=published`), which has to be the one that the prompt asks for where distances
between the two count (`mos_fit`). [1, 5] stays as it is, bit for bit.

Why [1, 5]: the published constants stand on it (gamma 1e-6 and the fixed variance 1 of
VisualQuality-R1, the width 1 of MR-IQA, .35 of Q-Insight, the worst squared error 16).
"""

from __future__ import annotations

from torch import Tensor

from vqr1.iqa.answers import ASKED_RANGE, ScoreRange, accepted_range

LEAST_COVERED = 0.5
"""Share of the asked range that MOS on the same scale span: those of the published sets span .77
and more of theirs."""


def to_reward_scale(values: Tensor, given: ScoreRange) -> Tensor:
    """Values on a given range, linearly on [1, 5]; NaN stays NaN.

    Args:
        values: [...] scores or MOS; they may lie beyond the range.
        given: the values that become 1 and 5.
    """
    if tuple(given) == ASKED_RANGE:
        return values
    (low, high), (first, last) = given, ASKED_RANGE
    return first + (values - low) * (last - first) / (high - low)


def to_reward_width(values: Tensor, given: ScoreRange) -> Tensor:
    """Differences or standard deviations on a given range, on [1, 5].

    Args:
        values: [...] widths.
        given: the values that become 1 and 5.
    """
    if tuple(given) == ASKED_RANGE:
        return values
    return values * (ASKED_RANGE[1] - ASKED_RANGE[0]) / (given[1] - given[0])


def mos_fit(lowest: float, highest: float, asked: ScoreRange) -> bool:
    """Whether MOS of this extent can be on the scale that a prompt asks for.

    They lie within the range of scores that is accepted, and span `LEAST_COVERED` of the asked one.

    Args:
        lowest: smallest MOS of the set.
        highest: largest MOS of the set.
        asked: `answer.score_range`.
    """
    low, high = accepted_range(asked)
    covered = (highest - lowest) / (asked[1] - asked[0])
    return low <= lowest and highest <= high and covered >= LEAST_COVERED
