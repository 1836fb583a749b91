"""Group-centred rewards divided by the standard deviation of the whole step's rewards.

    A_k(i) = (r_k(i) - mean_i) / (std + 1e-4),   std unbiased over all responses of the step

A group whose rewards lie close together keeps a small advantage, which its own standard deviation
would blow up. Source: `scale_rewards="batch"` of TRL (arXiv 2508.08221).
"""

from __future__ import annotations

import torch
from pydantic.dataclasses import dataclass
from torch import Tensor

from vqr1.config.types import STRICT_KEYS
from vqr1.training.advantages.base import AdvantageInputs, groups_with_variance
from vqr1.training.advantages.group_normalised import STD_EPSILON


def batch_scaled_advantages(rewards: Tensor) -> Tensor:
    """[G, K] advantages of [G, K] rewards, exactly 0 for a zero-variance group."""
    centred = (rewards - rewards.mean(dim=1, keepdim=True)) / (rewards.std() + STD_EPSILON)
    return torch.where(groups_with_variance(rewards)[:, None], centred, torch.zeros_like(centred))


@dataclass(config=STRICT_KEYS, kw_only=True, frozen=True)
class BatchNormalised:
    """`conf/advantage/batch_normalised.yaml`."""

    def __call__(self, inputs: AdvantageInputs) -> Tensor:
        """See `batch_scaled_advantages`."""
        return batch_scaled_advantages(inputs.rewards)
