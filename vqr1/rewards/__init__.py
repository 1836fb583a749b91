"""Rewards: one class a file, each a thin wrapper over pure functions of `vqr1.iqa`."""

from vqr1.rewards.attribute import AttributeFidelity
from vqr1.rewards.base import OwnDetails, Reward, RewardInputs, WeightedRewards
from vqr1.rewards.binary import BinaryReward
from vqr1.rewards.closeness import ExponentialReward, GaussianReward, RelativeReward
from vqr1.rewards.fidelity import FidelityReward
from vqr1.rewards.format import FormatReward
from vqr1.rewards.margin import MarginReward, MosMarginReward
from vqr1.rewards.mse import MseReward
from vqr1.rewards.preference_response import PreferenceResponseReward
from vqr1.rewards.probability import ProbabilityReward
from vqr1.rewards.shuffled import ShuffledFidelityReward
from vqr1.rewards.soft_preference import SoftPreferenceReward
from vqr1.rewards.text import (
    DegradationReward,
    LengthBonusReward,
    OverlongReward,
    RepetitionReward,
    StatedWordReward,
    WordCountReward,
)
from vqr1.rewards.threshold import ThresholdReward

__all__ = [
    "AttributeFidelity",
    "BinaryReward",
    "DegradationReward",
    "ExponentialReward",
    "FidelityReward",
    "FormatReward",
    "GaussianReward",
    "LengthBonusReward",
    "MarginReward",
    "MosMarginReward",
    "MseReward",
    "OverlongReward",
    "OwnDetails",
    "PreferenceResponseReward",
    "ProbabilityReward",
    "RelativeReward",
    "RepetitionReward",
    "Reward",
    "RewardInputs",
    "ShuffledFidelityReward",
    "SoftPreferenceReward",
    "StatedWordReward",
    "ThresholdReward",
    "WeightedRewards",
    "WordCountReward",
]
