"""Threshold reward of Q-Insight: 1 for a score close enough to the MOS on [1, 5]."""

from __future__ import annotations

import math

from torch import Tensor

from vqr1.iqa.closeness import THRESHOLD, threshold_reward
from vqr1.rewards.base import RewardInputs


class ThresholdReward:
    """`vqr1.iqa.closeness.threshold_reward` with its width bound.

    Args:
        width: errors below this earn 1 (published: .35).
        inclusive: an error of exactly `width` does too (Refine-IQA, .5).

    Raises:
        ValueError: the width is out of range.
    """

    ranks = False
    absolute = True

    def __init__(self, width: float = THRESHOLD, inclusive: bool = False) -> None:
        if not 0 < width < math.inf:
            raise ValueError(f"width={width}: must be above 0")
        self.width = width
        self.inclusive = inclusive

    def __call__(self, inputs: RewardInputs) -> Tensor:
        """[B, K] of 0 and 1; 0 for invalid answers."""
        return threshold_reward(
            inputs.scores, inputs.mos, inputs.valid, width=self.width, inclusive=self.inclusive
        )
