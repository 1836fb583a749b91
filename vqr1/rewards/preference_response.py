"""Reward of PreResQ-R1: ratings of several aspects, within an image and between images."""

from __future__ import annotations

import torch
from torch import Tensor

from vqr1.iqa.preference_response import preference_response_reward
from vqr1.rewards.base import RewardInputs


class PreferenceResponseReward:
    """`vqr1.iqa.preference_response`, of all attributes of the answer in their order."""

    ranks = True
    absolute = True
    needs = ("attributes",)
    least_attributes = 2

    def __call__(self, inputs: RewardInputs) -> Tensor:
        """[B, K]; 0 for invalid answers."""
        ratings = torch.stack(list(inputs.attributes.values()), dim=2).to(inputs.scores.dtype)
        valid = inputs.valid & ratings.isfinite().all(dim=2)
        return preference_response_reward(ratings, inputs.mos, valid, inputs.images)
