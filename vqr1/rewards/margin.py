"""Margin reward of MR-IQA: closeness of score differences to differences of MOS."""

from __future__ import annotations

from torch import Tensor

from vqr1.iqa.margin import margin_reward
from vqr1.iqa.thurstone import GAMMA
from vqr1.rewards.base import RewardInputs, check_constant


class MarginReward:
    """`vqr1.iqa.margin.margin_reward` with its constants bound.

    Args:
        width: s on the scale [1, 5]; None takes the standard deviation of both images' own scores.
        gamma: added to the summed variances where `width` is None.

    Raises:
        ValueError: a constant is out of range.
    """

    ranks = True
    absolute = True

    def __init__(self, width: float | None = 1.0, gamma: float = GAMMA) -> None:
        if width is not None:
            check_constant("width", width, square=True)
        check_constant("gamma", gamma)
        self.width = width
        self.gamma = gamma

    def __call__(self, inputs: RewardInputs) -> Tensor:
        """[B, K] in [0, 1]; 0 for invalid answers."""
        return margin_reward(
            inputs.scores,
            inputs.mos,
            inputs.valid,
            width=self.width,
            gamma=self.gamma,
            images=inputs.images,
        )


class MosMarginReward:
    """The same with the standard deviations of both images' MOS as width (MR-IQA, `sigma`)."""

    ranks = True
    absolute = True
    needs = ("mos_std",)

    def __call__(self, inputs: RewardInputs) -> Tensor:
        """[B, K] in [0, 1]; 0 for invalid answers."""
        assert inputs.mos_std is not None, "checked at the start (needs)"
        return margin_reward(
            inputs.scores, inputs.mos, inputs.valid, images=inputs.images, mos_std=inputs.mos_std
        )
