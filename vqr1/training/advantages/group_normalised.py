"""Group-relative advantages: each response against the other answers to the same image.

    A_k(i) = (r_k(i) - mean_i) / (std_i + 1e-4),   std unbiased over the K responses

Source: the public VisualQuality-R1 training code (GRPO, arXiv 2402.03300).
"""

from __future__ import annotations

import torch
from pydantic.dataclasses import dataclass
from torch import Tensor

from vqr1.config.types import STRICT_KEYS
from vqr1.training.advantages.base import AdvantageInputs, groups_with_variance

STD_EPSILON = 1e-4
"""Added to the group's standard deviation (public code)."""


def group_advantages(rewards: Tensor, *, normalise_std: bool = True) -> Tensor:
    """Centre each group's rewards and, by default, divide by their standard deviation.

    Args:
        rewards: [B, K] total rewards, K at least 2.
        normalise_std: False centres only (Dr.GRPO, arXiv 2503.20783).

    Returns:
        [B, K] advantages, exactly 0 for a zero-variance group.
    """
    centred = rewards - rewards.mean(dim=1, keepdim=True)
    if normalise_std:
        centred = centred / (rewards.std(dim=1, keepdim=True) + STD_EPSILON)
    return torch.where(groups_with_variance(rewards)[:, None], centred, torch.zeros_like(centred))


@dataclass(config=STRICT_KEYS, kw_only=True, frozen=True)
class GroupNormalised:
    """`conf/advantage/group_normalised.yaml`."""

    std: bool = True
    """Divide the centred rewards by the group's standard deviation (published); false centres
    only."""

    def __call__(self, inputs: AdvantageInputs) -> Tensor:
        """See `group_advantages`."""
        return group_advantages(inputs.rewards, normalise_std=self.std)
