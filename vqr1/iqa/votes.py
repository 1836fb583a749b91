"""Preferences from repeated comparisons of pairs of images (EvoQuality, arXiv 2509.25787).

Not here: asking a model to compare (`vqr1.training.self_vote`); the reward built on preferences
(`vqr1.iqa.thurstone.preference_fidelity`).

Shape legend: m pairs.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

import numpy as np

from vqr1.iqa.correlation import FloatArray

_INDEX = re.compile(r"\s*([01])\s*\.?\s*")
_REASONED = "</think>"


def stated_index(text: str) -> int | None:
    """Index of the better image that a response states, 0 or 1; None where it states none.

    The response has to be the index alone, after reasoning in `<think>` tags if there is any.

    >>> stated_index("1"), stated_index("<think>sharper</think> 0."), stated_index("image 1")
    (1, 0, None)
    """
    found = _INDEX.fullmatch(text.rpartition(_REASONED)[2])
    return None if found is None else int(found[1])


def votes_of_scores(first: Iterable[float], second: Iterable[float]) -> tuple[int, int, int]:
    """Votes for the first image, for the second, and for neither.

    Args:
        first: scores of the first image.
        second: scores of the second.

    >>> votes_of_scores([4.0, 3.0], [3.0, 2.0, 5.0])
    (3, 2, 1)
    """
    difference = np.subtract.outer(np.array(list(first)), np.array(list(second)))
    return int((difference > 0).sum()), int((difference < 0).sum()), int((difference == 0).sum())


def majority_preference(wins: FloatArray, losses: FloatArray) -> FloatArray:
    """What the majority of votes states of each pair.

    Args:
        wins: [m] votes for the first image.
        losses: [m] votes for the second; votes for neither are in neither.

    Returns:
        [m] 1 where the first has more votes, 1/2 for a tie, 0 where the second has more.
    """
    return np.asarray((np.sign(wins - losses) + 1.0) / 2.0)


def order_agreement(preference: FloatArray, mos: FloatArray, others: FloatArray) -> float:
    """Mean agreement of preferences with the order of MOS: 1, 1/2 for a tie, 0; NaN without pairs.

    Args:
        preference: [m] in {0, 1/2, 1}, that the first image is better.
        mos: [m] MOS of the first image.
        others: [m] MOS of the second; pairs of equal MOS are not counted.
    """
    differs = mos != others
    if not differs.any():
        return float("nan")
    truth = (mos > others)[differs].astype(np.float64)
    return float((1.0 - np.abs(preference[differs] - truth)).mean())
