"""Regression baseline: minus the squared error to the MOS on [1, 5]."""

from __future__ import annotations

from torch import Tensor

from vqr1.iqa.closeness import squared_error_reward
from vqr1.rewards.base import RewardInputs


class MseReward:
    """`vqr1.iqa.closeness.squared_error_reward`."""

    ranks = False
    absolute = True

    def __call__(self, inputs: RewardInputs) -> Tensor:
        """[B, K] in [-16, 0]; -16 for invalid answers."""
        return squared_error_reward(inputs.scores, inputs.mos, inputs.valid)
