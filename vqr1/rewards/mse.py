"""Regression baseline: minus the squared error to the MOS on [1, 5].

An invalid answer has no error to square; it earns what the worst possible answer on [1, 5] earns,
and no valid answer earns less, so that being unreadable is never the better choice.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vqr1.rewards.base import RewardInputs

WORST_SQUARED_ERROR = (5.0 - 1.0) ** 2


class MseReward:
    """Minus the squared error, in [-16, 0]."""

    ranks = False

    def __call__(self, inputs: RewardInputs) -> Tensor:
        """[B, K] in [-16, 0]."""
        error = (inputs.scores - inputs.mos[:, None]) ** 2
        worst = torch.full_like(error, WORST_SQUARED_ERROR)
        return -torch.where(inputs.valid, error, worst).clamp_max(WORST_SQUARED_ERROR)
