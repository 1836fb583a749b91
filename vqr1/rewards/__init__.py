"""Rewards: one class a file, each a thin wrapper over pure functions of `vqr1.iqa`."""

from vqr1.rewards.base import Reward, RewardInputs, WeightedRewards
from vqr1.rewards.fidelity import FidelityReward
from vqr1.rewards.format import FormatReward
from vqr1.rewards.mse import MseReward
from vqr1.rewards.shuffled import ShuffledFidelityReward

__all__ = [
    "FidelityReward",
    "FormatReward",
    "MseReward",
    "Reward",
    "RewardInputs",
    "ShuffledFidelityReward",
    "WeightedRewards",
]
