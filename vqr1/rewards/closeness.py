"""Rewards that fall smoothly with the distance of a score from its image's MOS."""

from __future__ import annotations

import math

from torch import Tensor

from vqr1.iqa.closeness import exponential_reward, gaussian_reward, relative_reward
from vqr1.rewards.base import RewardInputs, check_constant


class ExponentialReward:
    """`vqr1.iqa.closeness.exponential_reward` with its constants bound.

    Args:
        decay: error on [1, 5] at which the reward is 1 / e (Q-Hawkeye .3, IQA-T1 .2).
        clamp: limit scores to [1, 5] first (Q-Hawkeye).

    Raises:
        ValueError: a constant is out of range.
    """

    ranks = False
    absolute = True

    def __init__(self, decay: float = 0.3, clamp: bool = True) -> None:
        check_constant("decay", decay)
        self.decay = decay
        self.clamp = clamp

    def __call__(self, inputs: RewardInputs) -> Tensor:
        """[B, K] in [0, 1]; 0 for invalid answers."""
        return exponential_reward(
            inputs.scores, inputs.mos, inputs.valid, decay=self.decay, clamp=self.clamp
        )


class GaussianReward:
    """`vqr1.iqa.closeness.gaussian_reward` with its constants bound.

    Args:
        sigma: width at no error, on [1, 5]: a twenty-fifth of one on [0, 100] (UniPercept 8 there,
            TATAR 7.43).
        growth: alpha: how much wider at an error of the whole range (UniPercept .25, TATAR .8).
        factor: what the reward is multiplied by, before it is limited to 1 (TATAR aesthetics 1.5).

    Raises:
        ValueError: a constant is out of range.
    """

    ranks = False
    absolute = True

    def __init__(self, sigma: float, growth: float = 0.0, factor: float = 1.0) -> None:
        check_constant("sigma", sigma, square=True)
        if not 0 <= growth < math.inf:
            raise ValueError(f"growth={growth}: must be 0 or above, and finite")
        check_constant("factor", factor)
        self.sigma = sigma
        self.growth = growth
        self.factor = factor

    def __call__(self, inputs: RewardInputs) -> Tensor:
        """[B, K] in [0, 1]; 0 for invalid answers."""
        reward = gaussian_reward(
            inputs.scores, inputs.mos, inputs.valid, sigma=self.sigma, growth=self.growth
        )
        return (self.factor * reward).clamp_max(1.0)


class RelativeReward:
    """`vqr1.iqa.closeness.relative_reward`, of scores and MOS on [0, 4], one below the reward's.

    The public code divides by the MOS on a scale from 0.
    """

    ranks = False
    absolute = True

    def __call__(self, inputs: RewardInputs) -> Tensor:
        """[B, K] in [0, 1]; 0 for invalid answers."""
        return relative_reward(inputs.scores - 1.0, inputs.mos - 1.0, inputs.valid)
