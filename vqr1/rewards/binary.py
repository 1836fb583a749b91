"""Binary reward (VisualQuality-R1, Table 4): share of the opponents on the right side."""

from __future__ import annotations

from torch import Tensor

from vqr1.iqa.thurstone import binary_reward
from vqr1.rewards.base import RewardInputs


class BinaryReward:
    """`vqr1.iqa.thurstone.binary_reward`."""

    ranks = True

    def __call__(self, inputs: RewardInputs) -> Tensor:
        """[B, K] in [0, 1]; 0 for invalid answers."""
        return binary_reward(
            inputs.scores,
            inputs.mos,
            inputs.valid,
            images=inputs.images,
            preferences=inputs.preferences,
        )
