"""Ranking reward of TATAR: preferences that are the softer the closer the MOS are."""

from __future__ import annotations

from torch import Tensor

from vqr1.iqa.answers import ASKED_RANGE
from vqr1.iqa.soft_preference import soft_preference_reward
from vqr1.rewards.base import RewardInputs


class SoftPreferenceReward:
    """`vqr1.iqa.soft_preference`, of scores and MOS put on [0, 1].

    Args:
        own_variance: compare by the variance of the scores, as Thurstone's model does.
    """

    ranks = True
    absolute = True

    def __init__(self, own_variance: bool = False) -> None:
        self.own_variance = own_variance

    def __call__(self, inputs: RewardInputs) -> Tensor:
        """[B, K] in [0, 1]; 0 for invalid answers."""
        low, high = ASKED_RANGE
        return soft_preference_reward(
            ((inputs.scores - low) / (high - low)).clamp(0.0, 1.0),
            (inputs.mos - low) / (high - low),
            inputs.valid,
            own_variance=self.own_variance,
            images=inputs.images,
        )
