"""Fidelity reward of VisualQuality-R1: agreement of comparison probabilities with the MOS order.

Where pairs are learnt from, with the stated preferences in place of that order.
"""

from __future__ import annotations

import math

from torch import Tensor

from vqr1.iqa.thurstone import GAMMA, preference_fidelity, true_preferences
from vqr1.rewards.base import RewardInputs, check_constant


class FidelityReward:
    """`vqr1.iqa.thurstone.preference_fidelity`, its constants bound; all on [1, 5], squared.

    Args:
        gamma: added to the summed variances (published: 1e-6).
        variance_floor: smallest variance of an image's K scores; 0 is the published rule.
        fixed_variance: variance of every image instead of the K scores' own; None is the
            published rule, 1 the paper's ablation.

    Raises:
        ValueError: a constant is out of range.
    """

    ranks = True

    def __init__(
        self,
        gamma: float = GAMMA,
        variance_floor: float = 0.0,
        fixed_variance: float | None = None,
    ) -> None:
        check_constant("gamma", gamma)
        if not 0 <= variance_floor < math.inf:
            raise ValueError(f"variance_floor={variance_floor}: must be 0 or above")
        if fixed_variance is not None:
            check_constant("fixed_variance", fixed_variance)
        self.gamma = gamma
        self.variance_floor = variance_floor
        self.fixed_variance = fixed_variance

    def __call__(self, inputs: RewardInputs) -> Tensor:
        """[B, K] in [0, 1.001]; 0 for invalid answers."""
        stated = inputs.preferences
        return preference_fidelity(
            inputs.scores,
            true_preferences(inputs.mos.to(inputs.scores.dtype)) if stated is None else stated,
            inputs.valid,
            gamma=self.gamma,
            variance_floor=self.variance_floor,
            fixed_variance=self.fixed_variance,
            images=inputs.images,
        )
