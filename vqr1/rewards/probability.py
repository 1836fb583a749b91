"""Probability reward (VisualQuality-R1, Table 4): probability of the true order."""

from __future__ import annotations

from torch import Tensor

from vqr1.iqa.thurstone import GAMMA, probability_reward
from vqr1.rewards.base import RewardInputs, check_constant


class ProbabilityReward:
    """`vqr1.iqa.thurstone.probability_reward` with its constant bound.

    Args:
        gamma: added to the summed variances (published: 1e-6).

    Raises:
        ValueError: the constant is out of range.
    """

    ranks = True

    def __init__(self, gamma: float = GAMMA) -> None:
        check_constant("gamma", gamma)
        self.gamma = gamma

    def __call__(self, inputs: RewardInputs) -> Tensor:
        """[B, K] in [0, 1]; 0 for invalid answers."""
        return probability_reward(
            inputs.scores,
            inputs.mos,
            inputs.valid,
            gamma=self.gamma,
            images=inputs.images,
            preferences=inputs.preferences,
        )
