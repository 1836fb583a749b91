"""Format reward: 1 for a response of exactly the required format, else 0 (VisualQuality-R1)."""

from __future__ import annotations

from torch import Tensor

from vqr1.rewards.base import RewardInputs


class FormatReward:
    """The published 0/1 rule; the form itself is the group `answer`."""

    ranks = False

    def __call__(self, inputs: RewardInputs) -> Tensor:
        """[B, K] of 0 and 1."""
        return inputs.format_compliant.to(inputs.scores.dtype)
